
// The page of a server: asks, and feeds what comes back to the renderer above.
const server = JSON.parse(document.getElementById("server").content.textContent);
const part = (id) => document.getElementById(id);
let running = null; // of the question that is being answered

// A decode that goes on, in the form of a replay.
function newDecode(title) {
  const blank = (value) => new Array(server.gen_length).fill(value);
  return {
    title,
    text: "",
    usage: null,
    begin: performance.now(),
    seconds: 0,
    finish: null,
    replay: { title, tokens: blank(null), committed_at: blank(0), confidence: blank(0), reason: blank(0), nfe: 0 },
  };
}

// Writes what a pass committed into a decode.
function commit(data, decode, event) {
  const { replay } = decode;
  event.positions.forEach((position, at) => {
    data.texts.push(event.texts[at]);
    replay.tokens[position] = data.texts.length - 1;
    replay.committed_at[position] = event.pass;
    replay.confidence[position] = event.confidence[at];
    const name = event.reason[at].toUpperCase();
    replay.reason[position] = server.facts.reasons.findIndex((reason) => reason.name === name);
  });
  replay.nfe = Math.max(replay.nfe, event.pass);
}

// What was never committed is the tail: left out at the end, shown as such before it.
function close(data, decode) {
  const { replay } = decode;
  const last = replay.committed_at.reduce((most, at, position) => (at ? position + 1 : most), 0);
  replay.tail = replay.tokens.length - last;
  for (const name of ["tokens", "committed_at", "confidence", "reason"]) replay[name].length = last;
  data.texts.push(["EOS", 1, 0]);
  replay.tokens = replay.tokens.map((token) => token ?? data.texts.length - 1);
}

// The events of a stream, one JSON object each.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n\n");
    rest = lines.pop();
    for (const line of lines) {
      const text = line.replace(/^data: /, "");
      if (text === "[DONE]") return;
      yield JSON.parse(text);
    }
  }
}

async function ask(question, diffusion, signal, onEvent) {
  const headers = { "Content-Type": "application/json" };
  if (part("key").value) headers.Authorization = `Bearer ${part("key").value}`;
  const response = await fetch("v1/chat/completions", {
    method: "POST",
    headers,
    signal,
    body: JSON.stringify({
      model: server.model,
      messages: [{ role: "user", content: question }],
      stream: true,
      stream_options: { include_usage: true },
      diffusion: { ...diffusion, events: true },
    }),
  });
  if (response.status === 401) part("key-row").hidden = false;
  if (!response.ok) throw new Error((await response.json()).error.message);
  for await (const event of events(response)) {
    if (event.error) throw new Error(event.error.message);
    onEvent(event);
  }
}

function drawNumbers(decodes) {
  const shown = decodes.map(({ replay, usage, seconds, finish, title }) => {
    const committed = replay.committed_at.filter((at) => at).length;
    const tokens = usage ? usage.completion_tokens : committed;
    const passes = usage ? usage.passes : replay.nfe;
    const speed = seconds ? tokens / seconds : 0;
    const named = (value, word) => make("span", {}, make("b", {}, value), ` ${word}`);
    const name = decodes.length > 1 ? make("span", {}, `${title}:`) : null;
    return make(
      "p",
      { class: "numbers" },
      name,
      named(String(passes), plural(passes, "pass")),
      named(String(tokens), plural(tokens, "token")),
      named(speed.toFixed(1), "tokens/s"),
      finish === "budget" ? make("span", {}, "budget used up") : null,
    );
  });
  part("numbers").replaceChildren(...shown);
}

function drawLive(data, decodes) {
  const boards = decodes.map(({ replay, finish }) => {
    const board = drawBoard(data, replay);
    board.setAttribute("aria-busy", String(finish === null));
    const committed = replay.committed_at.filter((at) => at).length;
    const text = `${count(replay.nfe, "pass")}, ${count(committed, "token")} committed`;
    board.querySelector(".counter").textContent = text;
    for (const chip of board.querySelectorAll(".t")) {
      chip.classList.toggle("now", finish === null && Number(chip.dataset.at) === replay.nfe && replay.nfe > 0);
    }
    return board;
  });
  part("live").replaceChildren(...boards);
}

async function submit() {
  const question = part("question").value.trim();
  if (!question || running) return;
  running = new AbortController();
  const data = { facts: server.facts, texts: [] };
  const diffusion = { max_passes: Number(part("budget").value) };
  if (server.slider) diffusion.threshold = Number(part("threshold").value);
  const asked = [["Adaptive", diffusion]];
  if (part("compare").checked) asked.push(["One token a pass", { rule: server.baseline }]);
  const decodes = asked.map(([title]) => newDecode(asked.length > 1 ? title : null));
  let drawn = 0;
  const draw = () => {
    drawn ||= requestAnimationFrame(() => {
      drawn = 0;
      drawNumbers(decodes);
      if (running) drawLive(data, decodes);
    });
  };
  part("error").hidden = true;
  part("result").hidden = false;
  part("answer").textContent = "";
  part("send").disabled = true;
  part("stop").disabled = false;
  draw();
  try {
    await Promise.all(
      asked.map(([, options], at) =>
        ask(question, options, running.signal, (event) => {
          const decode = decodes[at];
          decode.seconds = (performance.now() - decode.begin) / 1000;
          decode.usage = event.usage ?? decode.usage;
          for (const choice of event.choices) {
            decode.text += choice.delta.content ?? "";
            decode.finish = choice.finish_reason ?? decode.finish;
            for (const one of choice.diffusion?.events ?? []) commit(data, decode, one);
          }
          if (at === 0) part("answer").textContent = decode.text;
          draw();
        }),
      ),
    );
  } catch (error) {
    running.abort();
    if (error.name !== "AbortError") {
      part("error").textContent = error.message;
      part("error").hidden = false;
    }
  }
  running = null;
  part("send").disabled = false;
  part("stop").disabled = true;
  decodes.forEach((decode) => close(data, decode));
  drawNumbers(decodes);
  const replays = decodes.map(({ replay }) => replay);
  if (replays.some((replay) => replay.nfe)) {
    const heading = "Pass by pass";
    part("live").replaceChildren(drawPanel(data, { name: "", heading, replays }), drawKey(server.facts));
  } else {
    part("live").replaceChildren();
  }
}

function showSettings() {
  part("threshold-value").textContent = Number(part("threshold").value).toFixed(2);
  const budget = Number(part("budget").value);
  part("budget-value").textContent = budget ? count(budget, "pass") : "no limit";
}

part("threshold").value = server.threshold ?? 1;
part("threshold").closest("label").hidden = !server.slider;
part("compare").closest("label").hidden = server.baseline === null;
part("form").addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
part("form").addEventListener("input", showSettings);
part("question").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  submit();
});
part("stop").addEventListener("click", () => running?.abort());
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
});
showSettings();
