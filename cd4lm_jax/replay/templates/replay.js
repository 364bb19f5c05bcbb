"use strict";
// The page already holds every token with its pass and confidence (so it reads without this
// script); here a slider only decides which passes have happened.
document.documentElement.classList.add("js");

const PLAY_MS = 9000;

// Makes a problem's controls work.
function replay(problem) {
  const slider = problem.querySelector("input");
  const output = problem.querySelector("output");
  const play = problem.querySelector("[data-do=play]");
  const boards = Array.from(problem.querySelectorAll(".canvas"), (canvas) => {
    const board = canvas.closest(".board");
    return {
      passes: Number(board.dataset.passes),
      counter: board.querySelector(".counter"),
      bars: Array.from(board.querySelectorAll(".bars i")),
      tokens: Array.from(canvas.querySelectorAll(".t"), (token) => ({
        element: token,
        at: Number(token.dataset.at),
        due: Number(token.dataset.due),
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
      for (const { element, at, due } of board.tokens) {
        element.classList.toggle("masked", due > pass);
        element.classList.toggle("now", at > 0 && at === pass);
        if (at && at <= pass) committed += 1;
      }
      board.bars.forEach((bar, index) => {
        bar.classList.toggle("now", index + 1 === pass);
        bar.classList.toggle("ahead", index + 1 > pass);
      });
      const done = pass >= board.passes;
      const count = document.createElement("b");
      count.textContent = Math.min(pass, board.passes);
      board.counter.replaceChildren(
        count,
        done ? " passes, done" : ` of ${board.passes} passes`,
        `, ${committed} token${committed === 1 ? "" : "s"} committed`,
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

  problem.querySelector(".controls").addEventListener("click", (event) => {
    const action = event.target.dataset.do;
    if (!action) return;
    const running = timer !== 0;
    stop();
    if (action === "play" && !running) start();
    if (action === "back") show(Math.max(0, Number(slider.value) - 1));
    if (action === "next") show(Math.min(last, Number(slider.value) + 1));
  });
  problem.addEventListener("keydown", (event) => {
    const action = { ArrowLeft: "back", ArrowRight: "next" }[event.key];
    if (!action || event.target === slider || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    problem.querySelector(`[data-do=${action}]`).click();
  });
  slider.addEventListener("input", () => {
    stop();
    show(Number(slider.value));
  });
  problem.addEventListener("click", (event) => {
    const token = event.target.closest(".canvas .t");
    if (!token || token.classList.contains("masked")) return;
    token.closest(".board").querySelector(".detail").textContent = token.title;
  });
  slider.max = last;
  show(last);
}

document.querySelectorAll(".problem").forEach(replay);
