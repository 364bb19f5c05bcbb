// The browser of problems: unpacks what problems.py packed, lists, searches, filters, sorts, opens.
// An opened problem is drawn by replay.js.

const ORDERS = {
  wrong: (run) => (a, b) => run.correct[a] - run.correct[b],
  slow: (run) => (a, b) => run.nfe[b] - run.nfe[a],
  low: (run) => (a, b) => run.confidence[a] - run.confidence[b],
  high: (run) => (a, b) => run.confidence[b] - run.confidence[a],
  given: () => (a, b) => a - b,
};
const SHOWN = {
  all: () => true,
  wrong: (at, run) => !run.correct[at],
  right: (at, run) => run.correct[at],
  differ: (at, run, beside) => beside && run.correct[at] !== beside.correct[at],
};

async function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

// A problem as several runs answered it, ready to be replayed.
function panel(data, runs, at) {
  const { id, prompt, reference } = data.problems;
  return drawPanel(data, {
    name: id[at],
    question: prompt[at],
    reference: reference[at],
    replays: runs.map((run) => ({
      nfe: run.nfe[at],
      length: run.length[at],
      ...run.replays?.[at],
      title: run.name,
      correct: run.correct[at],
      answer: run.output[at],
    })),
  });
}

function browse(section, data) {
  const part = (name) => section.querySelector(`[data-part=${name}]`);
  const form = section.querySelector("form");
  const { search, run: runs, beside: besides, show, sort } = form.elements;
  const list = part("rows");
  const template = part("row");
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
    const element = template.content.firstElementChild.cloneNode(true);
    const button = element.firstElementChild;
    const [judged, id, gist, passes, tokens, confidence] = button.children;
    const word = verdict(shown.correct[at]);
    button.dataset.at = at;
    judged.className = `mark ${word}`;
    judged.textContent = word;
    id.textContent = data.problems.id[at];
    gist.textContent = data.problems.prompt[at];
    passes.textContent = shown.nfe[at];
    tokens.textContent = shown.length[at];
    confidence.textContent = shown.confidence[at].toFixed(3);
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
    part("article").replaceChildren(panel(data, shown, at));
    part("opened").hidden = false;
    mark();
    list.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest" });
  }

  part("key").replaceWith(drawKey(data.facts));
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
  unpacked(section.querySelector("[data-part=packed]").content.textContent).then(
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
