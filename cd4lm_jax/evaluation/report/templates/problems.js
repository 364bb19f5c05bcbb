// The browser of problems: unpacks what problems.py packed, lists, searches, filters, sorts, opens.
// An opened problem is the stencil of the page, filled in and given to `replay`.

const ORDERS = {
  wrong: (run) => (a, b) => run.correct[a] - run.correct[b],
  slow: (run) => (a, b) => run.nfe[b] - run.nfe[a],
  unsure: (run) => (a, b) => run.sure[a] - run.sure[b],
  sure: (run) => (a, b) => run.sure[b] - run.sure[a],
  given: () => (a, b) => a - b,
};
const SHOWN = {
  all: () => true,
  wrong: (at, run) => !run.correct[at],
  right: (at, run) => run.correct[at],
  differ: (at, run, beside) => beside && run.correct[at] !== beside.correct[at],
};

function stencil(id) {
  return document.getElementById(id).content.firstElementChild.cloneNode(true);
}

async function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

function verdict(correct) {
  return correct ? "right" : "wrong";
}

// One run's answer to a problem as a board of the replay.
function board(empty, data, run, at) {
  const element = empty.cloneNode(true);
  const nfe = run.nfe[at];
  element.dataset.passes = nfe;
  element.querySelector("h4").textContent = run.name;
  const judged = element.querySelector(".verdict");
  judged.className = `verdict ${verdict(run.correct[at])}`;
  judged.textContent = verdict(run.correct[at]);
  const answer = document.createElement("p");
  answer.className = "answer";
  answer.textContent = run.output[at];
  element.querySelector("header").after(answer);
  const counter = element.querySelector(".counter");
  const canvas = element.querySelector(".canvas");
  const bars = element.querySelector(".bars");
  const tail = element.querySelector(".tail");
  if (!run.decodes) {
    counter.textContent = `${nfe} passes, ${run.tokens[at]} tokens before the end`;
    for (const part of [canvas, bars, tail, element.querySelector(".detail")]) part.remove();
    return element;
  }
  const [tokens, passes, confidences, reasons, [left]] = run.decodes[at];
  const [chip, bar] = [canvas.querySelector(".t"), bars.querySelector("i")];
  canvas.replaceChildren();
  tokens.forEach((token, position) => {
    const [label, special, breaks] = data.pieces[token];
    const [pass, confidence] = [passes[position], confidences[position] / 1000];
    const [reason, tooltip] = data.reasons[reasons[position]];
    const shown = chip.cloneNode(true);
    shown.classList.toggle("special", special === 1);
    shown.classList.toggle("undecoded", reason === "TAIL");
    shown.classList.toggle("given", reason === "GIVEN");
    shown.dataset.at = pass;
    shown.dataset.due = reason === "TAIL" ? nfe : pass;
    const heat = (confidence - data.floor) / (1 - data.floor);
    shown.style.setProperty("--c", Math.min(1, Math.max(0, heat)));
    const told = { position: position + 1, at: pass, nfe, confidence: confidence.toFixed(3) };
    shown.title = tooltip.replace(/\{(\w+)\}/g, (_, key) => told[key]);
    shown.firstChild.data = label;
    shown.querySelector("sup").textContent = reason === "TAIL" ? "" : pass;
    canvas.append(shown, document.createElement(breaks ? "br" : "wbr"));
  });
  const counts = new Array(nfe).fill(0);
  for (const pass of passes) if (pass) counts[pass - 1] += 1;
  const most = Math.max(1, ...counts);
  bars.replaceChildren(
    ...counts.map((count, index) => {
      const shown = bar.cloneNode(true);
      shown.style.setProperty("--h", count / most);
      shown.title = `pass ${index + 1}: ${count}`;
      return shown;
    }),
  );
  tail.querySelector("b").textContent = left;
  tail.hidden = !left;
  return element;
}

// A problem as several runs answered it, ready to be replayed.
function article(data, runs, at) {
  const element = stencil("stencil");
  const { id, prompt, reference } = data.problems;
  element.querySelector("h3").textContent = `Problem ${id[at]}`;
  element.querySelector(".question").textContent = prompt[at];
  element.querySelector(".reference b").textContent = reference[at];
  const controls = element.querySelector(".controls");
  controls.setAttribute("aria-label", `Replay of problem ${id[at]}`);
  controls.hidden = !runs.some((run) => run.decodes);
  const empty = element.querySelector(".board");
  empty.replaceWith(...runs.map((run) => board(empty, data, run, at)));
  replay(element);
  return element;
}

function browse(section, data) {
  const part = (name) => section.querySelector(`[data-part=${name}]`);
  const form = section.querySelector("form");
  const { search, run: runs, beside: besides, show, sort } = form.elements;
  const list = part("rows");
  const texts = data.problems.id.map((id, at) =>
    [id, data.problems.prompt[at], data.problems.reference[at]].join("\n").toLowerCase(),
  );
  let order = [];
  let opened = -1;

  const run = () => data.runs[runs.value];
  const beside = () => data.runs[besides.value];
  const buttons = () => Array.from(list.querySelectorAll("button"));

  function fill() {
    const [shown, other] = [run(), beside()];
    const wanted = search.value.trim().toLowerCase();
    order = texts.map((_, at) => at).filter((at) => SHOWN[show.value](at, shown, other));
    if (wanted) {
      order = order.filter(
        (at) => texts[at].includes(wanted) || shown.output[at].toLowerCase().includes(wanted),
      );
    }
    order.sort(ORDERS[sort.value](shown)); // stable: as given where equal
    list.replaceChildren(...order.map((at) => row(shown, at)));
    const right = order.reduce((sum, at) => sum + shown.correct[at], 0);
    part("found").textContent =
      `${order.length} of ${texts.length} problems, ${right} of them right in this run.`;
    mark();
  }

  function row(shown, at) {
    const element = stencil("row");
    const button = element.firstElementChild;
    const [judged, id, gist, passes, tokens, sure] = button.children;
    const word = verdict(shown.correct[at]);
    button.dataset.at = at;
    judged.className = `mark ${word}`;
    judged.textContent = word;
    id.textContent = data.problems.id[at];
    gist.textContent = data.problems.prompt[at];
    passes.textContent = shown.nfe[at];
    tokens.textContent = shown.tokens[at];
    sure.textContent = (shown.sure[at] / 1000).toFixed(3);
    return element;
  }

  // The opened problem's row, and which of the list it is.
  function mark() {
    for (const button of buttons()) {
      if (Number(button.dataset.at) === opened) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
    const place = order.indexOf(opened);
    part("place").textContent = place < 0 ? "not in the list" : `${place + 1} of ${order.length}`;
    for (const turn of section.querySelectorAll("[data-turn]")) {
      turn.disabled = !(place + Number(turn.dataset.turn) in order);
    }
  }

  function open(at) {
    opened = at;
    const shown = [run(), beside()].filter((one, index, all) => one && all.indexOf(one) === index);
    part("article").replaceChildren(article(data, shown, at));
    part("opened").hidden = false;
    mark();
    list.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest" });
  }

  for (const [index, { name }] of data.runs.entries()) {
    runs.add(new Option(name, index));
    besides.add(new Option(name, index));
  }
  besides.add(new Option("nothing", ""));
  runs.value = data.shown;
  besides.value = data.beside === null || data.beside === data.shown ? "" : data.beside;

  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", (event) => {
    fill();
    if (opened >= 0 && [runs, besides].includes(event.target)) open(opened);
  });
  list.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    open(Number(button.dataset.at));
    part("article").querySelector("h3").focus();
  });
  list.addEventListener("keydown", (event) => {
    const all = buttons();
    const at = all.indexOf(document.activeElement);
    const next = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: all.length - 1 }[event.key];
    if (!(next in all)) return;
    event.preventDefault();
    all[next].focus();
  });
  part("opened").addEventListener("click", (event) => {
    const turn = Number(event.target.dataset.turn);
    if (turn) open(order[order.indexOf(opened) + turn]);
  });
  part("opened").addEventListener("keydown", (event) => {
    if (event.key === "Escape") list.querySelector("[aria-current]")?.focus();
  });
  fill();
}

const section = document.getElementById("browser");
if (section) {
  const status = section.querySelector("[data-part=status]");
  unpacked(document.getElementById("packed").content.textContent).then(
    (data) => {
      browse(section, data);
      section.querySelector("[data-part=ready]").hidden = false;
      status.remove();
    },
    (error) => {
      status.textContent = `This browser cannot unpack the problems: ${error}`;
    },
  );
}
