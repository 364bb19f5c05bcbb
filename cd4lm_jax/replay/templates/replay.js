"use strict";
// The one renderer of replays: data in (page.py, `data`), chips out. A page that embeds its data
// is drawn at once; other scripts call `drawKey` and `drawPanel` with data of the same form.
// Texts are set as text, never as markup.
document.documentElement.classList.add("js");

const PLAY_MS = 9000;

// An element with attributes and children; a null child is left out.
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.filter((child) => child !== null));
  return element;
}

function plural(number, word) {
  return number === 1 ? word : word.endsWith("s") ? `${word}es` : `${word}s`;
}

function count(number, word) {
  return `${number} ${plural(number, word)}`;
}

function verdict(correct) {
  return correct ? "right" : "wrong";
}

// What colours and numbers mean.
function drawKey({ floor }) {
  const scale = make("span", { class: "scale" });
  scale.append(make("i", {}, `\u2264 ${floor}`), make("span", { class: "ramp" }), make("i", {}, "1"));
  const states = make("span", { class: "states" });
  states.append(make("span", { class: "t masked" }, "not yet"), " ");
  states.append(make("span", { class: "t now", style: "--c:1" }, "this pass"));
  return make(
    "p",
    { class: "key" },
    "Each token carries the number of the pass that committed it. Its colour is the model's " +
      "confidence at that moment: ",
    scale,
    " ",
    states,
  );
}

// A position that is still masked in a decode that goes on.
function drawOpen(position) {
  const title = `position ${position + 1}: not yet committed`;
  return make("span", { class: "t masked open", title, "data-at": 0, "data-due": Infinity }, "\u2003");
}

// One position as a chip; its token is null while it is masked.
function drawChip(data, replay, position) {
  if (replay.tokens[position] === null) return drawOpen(position);
  const [label, special] = data.texts[replay.tokens[position]];
  const at = replay.committed_at[position];
  const confidence = replay.confidence[position];
  const { name, tooltip } = data.facts.reasons[replay.reason[position]];
  const { floor } = data.facts;
  const heat = Math.min(1, Math.max(0, (confidence - floor) / (1 - floor)));
  const edited = replay.edited_at?.[position] ?? 0;
  const numbers = {
    position: position + 1,
    at,
    edited,
    nfe: replay.nfe,
    confidence: confidence.toFixed(3),
  };
  const kinds = { TAIL: " undecoded", GIVEN: " given" };
  return make(
    "span",
    {
      class: `t${special ? " special" : ""}${kinds[name] ?? ""}`,
      style: `--c:${heat.toFixed(3)}`,
      title: tooltip.replace(/\{(\w+)\}/g, (_, key) => numbers[key]),
      "data-at": at,
      "data-due": name === "TAIL" ? replay.nfe : at,
      // An edited position has its first token until it is replaced.
      ...(edited && { "data-edited": edited, "data-first": data.texts[replay.first[position]][0] }),
      ...(edited && { "data-last": label }),
    },
    label,
    make("sup", {}, name === "TAIL" ? "" : String(at)),
  );
}

// How many positions each pass committed, as bars.
function drawBars(replay) {
  const counts = new Array(replay.nfe).fill(0);
  for (const at of replay.committed_at) if (at) counts[at - 1] += 1;
  const most = Math.max(1, ...counts);
  const bars = counts.map((number, index) =>
    make("i", {
      style: `--h:${(number / most).toFixed(3)}`,
      title: `pass ${index + 1}: ${number}`,
    }),
  );
  return make("div", { class: "bars", "aria-hidden": "true" }, ...bars);
}

// One run's decode of a prompt. Without `tokens` only its outcome is known.
function drawBoard(data, replay) {
  const { title = null, correct = null, answer = null, nfe } = replay;
  const board = make("section", { class: "board", "data-passes": nfe });
  if (title !== null || correct !== null) {
    const header = make("header", {}, make("h4", {}, title ?? ""));
    const word = verdict(correct);
    if (correct !== null) header.append(make("span", { class: `verdict ${word}` }, word));
    board.append(header);
  }
  if (answer !== null) board.append(make("p", { class: "answer" }, answer));
  const counter = make("p", { class: "counter" });
  board.append(counter);
  if (!replay.tokens) {
    counter.textContent = `${count(nfe, "pass")}, ${count(replay.length, "token")} before the end`;
    return board;
  }
  const canvas = make("p", { class: "canvas" });
  replay.tokens.forEach((token, position) => {
    const breaks = token !== null && data.texts[token][2];
    canvas.append(drawChip(data, replay, position), make(breaks ? "br" : "wbr"));
  });
  board.append(drawBars(replay), canvas);
  const given = canvas.querySelectorAll(".given").length;
  if (given) {
    const text = `${count(given, "position")} given from the start: underlined.`;
    board.append(make("p", { class: "faint" }, text));
  }
  if (replay.tail) {
    const left = make("b", {}, String(replay.tail));
    const text = "After the end, filled without a pass: ";
    board.append(make("p", { class: "faint tail" }, text, left, "."));
  }
  const hint = "Tap a token for its pass, confidence and reason.";
  board.append(make("p", { class: "detail", "aria-live": "polite" }, hint));
  return board;
}

function button(action, label, sign) {
  return make("button", { type: "button", "data-do": action, "aria-label": label }, sign);
}

// A prompt and its decodes side by side, with controls that step through the passes.
function drawPanel(data, panel) {
  const { name, question = null, reference = null, replays } = panel;
  const { heading = `Problem ${name}` } = panel;
  const controls = make(
    "div",
    { class: "controls", role: "group", "aria-label": `Replay of ${heading.toLowerCase()}` },
    button("back", "Previous pass", "\u25c0\ufe0e"),
    button("play", "Play", "Play"),
    button("next", "Next pass", "\u25b6\ufe0e"),
    make("input", { type: "range", min: 0, step: 1, "aria-label": "Pass" }),
    make("output"),
  );
  controls.hidden = !replays.some((replay) => replay.tokens);
  const article = make(
    "article",
    { class: "problem" },
    make("h3", { tabindex: -1 }, heading),
    question === null ? null : make("p", { class: "question" }, question),
    reference === null
      ? null
      : make("p", { class: "reference" }, "Right answer: ", make("b", {}, reference)),
    controls,
    make("div", { class: "boards" }, ...replays.map((replay) => drawBoard(data, replay))),
  );
  animate(article);
  return article;
}

// Makes a panel's controls work: a slider decides which passes have happened.
function animate(article) {
  const slider = article.querySelector("input");
  const output = article.querySelector("output");
  const play = article.querySelector("[data-do=play]");
  const boards = Array.from(article.querySelectorAll(".canvas"), (canvas) => {
    const board = canvas.closest(".board");
    return {
      passes: Number(board.dataset.passes),
      counter: board.querySelector(".counter"),
      bars: Array.from(board.querySelectorAll(".bars i")),
      tokens: Array.from(canvas.querySelectorAll(".t"), (token) => ({
        element: token,
        at: Number(token.dataset.at),
        due: Number(token.dataset.due),
        edited: Number(token.dataset.edited ?? 0),
      })),
    };
  });
  const last = Math.max(0, ...boards.map((board) => board.passes));
  let timer = 0;

  function show(pass) {
    slider.value = pass;
    output.value = `pass ${pass} of ${last}`;
    for (const board of boards) {
      let committed = 0;
      for (const { element, at, due, edited } of board.tokens) {
        element.classList.toggle("masked", due > pass);
        element.classList.toggle("now", pass > 0 && (at === pass || edited === pass));
        if (edited) {
          const { first, last } = element.dataset;
          element.firstChild.data = pass < edited ? first : last;
        }
        if (at && at <= pass) committed += 1;
      }
      board.bars.forEach((bar, index) => {
        bar.classList.toggle("now", index + 1 === pass);
        bar.classList.toggle("ahead", index + 1 > pass);
      });
      const done = pass >= board.passes;
      const passes = plural(board.passes, "pass");
      board.counter.replaceChildren(
        make("b", {}, String(Math.min(pass, board.passes))),
        done ? ` ${passes}, done` : ` of ${board.passes} ${passes}`,
        `, ${count(committed, "token")} committed`,
      );
    }
  }

  function stop() {
    clearInterval(timer);
    timer = 0;
    play.textContent = "Play";
    play.setAttribute("aria-label", "Play");
    play.setAttribute("aria-pressed", "false");
  }

  function start() {
    if (Number(slider.value) >= last) show(0);
    play.textContent = "Pause";
    play.setAttribute("aria-label", "Pause");
    play.setAttribute("aria-pressed", "true");
    timer = setInterval(() => {
      show(Math.min(last, Number(slider.value) + 1));
      if (Number(slider.value) >= last) stop();
    }, Math.max(60, Math.min(500, PLAY_MS / last)));
  }

  article.querySelector(".controls").addEventListener("click", (event) => {
    const action = event.target.dataset.do;
    if (!action) return;
    const running = timer !== 0;
    stop();
    if (action === "play" && !running) start();
    if (action === "back") show(Math.max(0, Number(slider.value) - 1));
    if (action === "next") show(Math.min(last, Number(slider.value) + 1));
  });
  article.addEventListener("keydown", (event) => {
    const action = { ArrowLeft: "back", ArrowRight: "next" }[event.key];
    if (!action || event.target === slider || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    article.querySelector(`[data-do=${action}]`).click();
  });
  slider.addEventListener("input", () => {
    stop();
    show(Number(slider.value));
  });
  article.addEventListener("click", (event) => {
    const token = event.target.closest(".canvas .t");
    if (!token || token.classList.contains("masked")) return;
    token.closest(".board").querySelector(".detail").textContent = token.title;
  });
  stop();
  slider.max = last;
  show(last);
}

const embedded = document.getElementById("replays");
if (embedded) {
  const data = JSON.parse(embedded.content.textContent);
  embedded.replaceWith(
    drawKey(data.facts),
    ...data.panels.map((panel) => drawPanel(data, panel)),
  );
}
