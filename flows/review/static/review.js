// The review page: which item is shown, what keys do, what is sent.

import { Finder } from "./finder.js";
import { Outbox, newId, request } from "./outbox.js";
import { drawChoices, drawItem, drawSample, drawStrip, drawViews, element, imageUrl, nameOf, select } from "./view.js";

const $ = (id) => document.getElementById(id);
const FIRST = 4; // items of the first request, so that it is answered soon
const AHEAD = 12; // of the next ones
const page = $("review").dataset;
const asked = new URLSearchParams(location.search);

const state = {
  queue: asked.get("queue") === "zoom" ? "zoom" : asked.get("queue") ? "categories" : page.queue,
  order: asked.get("order") || page.order,
  reviewer: localStorage.getItem(`atlas-reviewer of ${page.reviewer}`) || page.reviewer, // of this --reviewer only
  items: [], // the first one is shown
  past: [], // decisions and skips, for undo
  choices: [],
  selected: -1,
  view: 0, // the image of the product that is shown
  next: 0, // position in the queue from which the next items are asked
  total: 0,
  left: 0,
  mine: 0,
  ended: false, // the queue has no more items
  pending: null, // the request for the next items
  load: 0, // number of the last change of the queue, so that older answers are dropped
  keys: 0, // keys, clicks and touches since the item was shown
  shownAt: 0,
  times: [], // of the last decisions, for the rate
  skipped: 0,
};

const outbox = new Outbox({
  onStored: (message, answer) => {
    state.mine = answer.mine;
    if (message.context.said) {
      say(message.context.said);
    }
    if (message.context.isFirstUndo) {
      back(answer.item);
    }
    drawProgress();
    if (state.order === "random") {
      loadSample();
    }
  },
  onRefused: (message, error) => {
    showFailure(`Not stored: ${error.message}`, false);
    const { item, isDecision } = message.context;
    if (isDecision) {
      state.past = state.past.filter((each) => each.id !== message.body.id);
      back(item);
    }
  },
  onFailure: (error) => {
    const count = outbox.waiting.length;
    if (error) {
      showFailure(`${count} ${count === 1 ? "decision is" : "decisions are"} not stored yet (${error.message}). Keep this page open; it tries again every 3 seconds.`, true);
    } else if (!$("retry").hidden) {
      $("failure").hidden = true;
    }
    drawProgress();
  },
});

const finder = new Finder({
  onChosen: (choice) => decide("category", choice),
  onLeft: focusChoice,
});

const isBlind = () => state.order === "random";
const item = () => state.items[0];

// --- the queue

async function start() {
  state.load += 1;
  Object.assign(state, { items: [], past: [], next: 0, ended: false, pending: null, skipped: 0 });
  const only = [...$("order").options].find((option) => option.value === state.order);
  if (!only || (state.queue === "zoom" && only.dataset.only)) {
    state.order = "uncertain";
  }
  [...$("order").options].forEach((option) => { option.hidden = state.queue === "zoom" && Boolean(option.dataset.only); });
  $("order").value = state.order;
  document.querySelectorAll("[data-queue][type=button]").forEach((button) => {
    button.setAttribute("aria-pressed", String(button.dataset.queue === state.queue));
  });
  history.replaceState(null, "", `?queue=${state.queue}&order=${state.order}`);
  $("sample").hidden = $("subject").hidden = $("decide").hidden = true; // what is seen is no longer in the queue
  await more();
  show();
  if (isBlind()) {
    loadSample();
  }
}

// Asks for the next items; a second call waits for the first.
function more() {
  if (!state.pending && !state.ended) {
    const load = state.load;
    state.pending = ask(load).finally(() => {
      if (load === state.load) {
        state.pending = null;
      }
    });
  }
  return state.pending;
}

async function ask(load) {
  const query = new URLSearchParams({
    queue: state.queue, order: state.order, reviewer: state.reviewer, position: state.next,
    count: state.next ? AHEAD : FIRST,
    others: $("others").checked,
  });
  try {
    const found = await request(`/api/items?${query}`);
    if (load !== state.load) {
      return;
    }
    const known = new Set([...state.items, ...state.past.map((each) => each.item)].map((each) => each.subject));
    state.items.push(...found.items.filter((each) => !known.has(each.subject)));
    Object.assign(state, { next: found.next, total: found.total });
    if (!state.past.length) {
      Object.assign(state, { left: found.left, mine: found.mine });
    }
    state.ended = found.next >= found.total;
    if ($("retry").dataset.loads) {
      $("failure").hidden = true;
      delete $("retry").dataset.loads;
    }
  } catch (error) {
    if (load === state.load) {
      showFailure(`The next items could not be read (${error.message}).`, true);
      $("retry").dataset.loads = "yes";
    }
  }
  state.items.slice(1, 4).forEach((each) => { new Image().src = imageUrl(each.images[0].id, "large"); });
}

async function show() {
  const load = state.load;
  if (!item() && !state.ended) {
    $("main").setAttribute("aria-busy", "true"); // what is still seen is decided
    await more();
    if (load !== state.load) {
      return;
    }
  }
  $("main").removeAttribute("aria-busy");
  const there = Boolean(item());
  $("subject").hidden = $("decide").hidden = !there;
  $("ended").hidden = there || !state.ended;
  drawStrip(state.items);
  drawProgress();
  if (!there) {
    if (state.ended) {
      drawEnd();
    }
    return;
  }
  const choices = [...item().choices];
  state.choices = isBlind() ? choices.sort(byName) : choices;
  state.selected = isBlind() || !choices.length ? -1 : 0;
  state.view = 0;
  state.keys = 0;
  state.shownAt = performance.now();
  finder.clear();
  drawItem(item(), { blind: isBlind() });
  drawChoices(state.choices, state.selected, { blind: isBlind() });
  $("attention").setAttribute("aria-pressed", "false");
  focusChoice();
  if (state.items.length <= (2 * AHEAD) / 3) {
    await more();
    if (load === state.load) {
      drawStrip(state.items);
    }
  }
}

function byName(one, other) {
  return one.path ? one.index - other.index : one.answer.localeCompare(other.answer);
}

function focusChoice() {
  const line = $("choices").children[state.selected];
  (line ? line.firstElementChild : $("main")).focus({ preventScroll: true });
}

function drawEnd() {
  $("ended-title").textContent = state.total ? "This queue is done." : "This queue is empty.";
  $("ended-text").textContent = state.total
    ? `${state.past.filter((each) => !each.skipped).length} decisions in this session. The next dvc repro uses them.`
    : "Choose another order below.";
  $("again").hidden = !state.skipped;
  $("ended-title").focus();
}

function drawProgress() {
  const recent = state.times.filter((time) => performance.now() - time < 60_000);
  const rate = recent.length > 4 ? Math.round((60_000 * (recent.length - 1)) / (recent.at(-1) - recent[0])) : 0;
  const waiting = outbox.waiting.length;
  const parts = [["strong", state.mine.toLocaleString("en")], ["span", " decided · "], ["strong", state.left.toLocaleString("en")], ["span", " left"]];
  if (rate) {
    parts.push(["span", ` · ${rate} a minute`]);
  }
  if (waiting) {
    parts.push(["span", ` · ${waiting} being stored`]);
  }
  $("progress").replaceChildren(...parts.map(([name, text]) => element(name, "", text)));
  $("bar").value = state.total ? 1 - state.left / state.total : 0;
}

async function loadSample() {
  const query = new URLSearchParams({ queue: state.queue, reviewer: state.reviewer });
  const load = state.load;
  const figures = await request(`/api/sample?${query}`).catch(() => null);
  if (figures && load === state.load && isBlind()) {
    drawSample(figures);
  }
}

// --- decisions

function decide(answer, choice) {
  const shown = item();
  if (!shown) {
    return;
  }
  const preselected = shown.choices.find((each) => each.probability !== null);
  const body = {
    id: newId(),
    reviewer: state.reviewer,
    queue: state.queue,
    product_id: shown.product_id,
    image_id: shown.images[state.view].id,
    answer,
    shown: {
      label: state.queue === "categories" && shown.label.length ? shown.label : null,
      predicted: preselected ? preselected.path || [preselected.answer] : null,
      probability: preselected ? preselected.probability : null,
      order: state.order,
      keys: state.keys,
      seconds: Math.round(performance.now() - state.shownAt) / 1000,
    },
  };
  if (answer === "category") {
    body.category = choice.path;
  }
  const name = { unsure: "Not sure", none: "No category fits" }[answer] || nameOf(choice);
  state.past.push({ id: body.id, item: shown });
  state.times.push(performance.now());
  state.left -= 1;
  state.items.shift();
  outbox.send("/api/decisions", body, { item: shown, isDecision: true, said: `Stored: ${name}` });
  show();
}

function choose(number) {
  const choice = state.choices[number];
  if (choice) {
    decide(choice.path ? "category" : choice.answer, choice);
  }
}

function skip() {
  if (!item()) {
    return;
  }
  state.past.push({ item: item(), skipped: true });
  state.skipped += 1;
  state.items.shift();
  say("Skipped");
  show();
}

function undo() {
  const last = state.past.pop();
  if (!last) { // of an earlier session
    outbox.send("/api/undo", { id: newId(), reviewer: state.reviewer, queue: state.queue }, { isFirstUndo: true, said: "Undone" });
    return;
  }
  if (last.skipped) {
    state.skipped -= 1;
    say("Back to the skipped item");
    state.items.unshift(last.item);
    show();
    return;
  }
  outbox.send("/api/undo", { id: newId(), reviewer: state.reviewer, queue: state.queue, undoes: last.id }, { said: "Undone" });
  back(last.item);
}

function back(shown) {
  if (!shown || shown.queue !== state.queue) {
    return;
  }
  state.left += 1;
  state.items = [shown, ...state.items.filter((each) => each.subject !== shown.subject)];
  show();
}

// --- what is seen

function showView(number) {
  const count = item() ? item().images.length : 0;
  if (count > 1) {
    state.view = (number + count) % count;
    drawViews(item(), state.view);
    $("attention").setAttribute("aria-pressed", "false");
  }
}

function toggleAttention() {
  const choice = state.choices[Math.max(state.selected, 0)];
  if (!item() || !choice || choice.index === undefined || $("attention").hidden) {
    say("Attention is shown for categories, if there is a trained model.");
    return;
  }
  const id = item().images[state.view].id;
  const isOn = $("attention").getAttribute("aria-pressed") === "true";
  $("attention").setAttribute("aria-pressed", String(!isOn));
  $("stage-note").hidden = isOn;
  $("stage-note").textContent = `Attention for ${nameOf(choice)}`;
  $("image").src = isOn ? imageUrl(id, "large") : `/attention/${encodeURIComponent(id)}?path=${choice.index}`;
}

function move(step) {
  if (state.choices.length) {
    const from = state.selected < 0 && step < 0 ? 0 : state.selected;
    state.selected = (from + step + state.choices.length) % state.choices.length;
    select(state.selected);
    focusChoice();
    if ($("attention").getAttribute("aria-pressed") === "true") {
      $("attention").setAttribute("aria-pressed", "false");
      toggleAttention();
    }
  }
}

function say(text) {
  $("said").textContent = text;
}

function showFailure(text, retries) {
  $("failure-text").textContent = text;
  $("retry").hidden = !retries;
  $("failure").hidden = false;
}

function setQueue(queue) {
  const button = document.querySelector(`[data-queue=${queue}][type=button]`);
  if (!button.disabled) {
    state.queue = queue;
    start();
  }
}

// --- keys, clicks and touches

const LETTERS = {
  n: () => decide("unsure"),
  x: () => state.queue === "categories" && decide("none"),
  s: skip,
  u: undo,
  a: toggleAttention,
  q: () => setQueue(state.queue === "zoom" ? "categories" : "zoom"),
  "/": () => state.queue === "categories" && finder.focus(),
  "?": () => $("help").showModal(),
};
const ONCE = "nxsuq?"; // not repeated while the key is held

document.addEventListener("keydown", (event) => {
  if (!["Shift", "Tab", "Control", "Alt", "Meta"].includes(event.key) && !$("help").open) {
    state.keys += 1;
  }
}, true); // before the key has its effect

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) {
    return;
  }
  if (event.target.closest("input, select, textarea")) {
    return;
  }
  const isOnChoice = event.target.closest(".choice") || event.target === document.body || event.target === $("main");
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  const turn = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (step) {
    move(step);
  } else if (turn) {
    showView(state.view + turn);
  } else if (event.key === "Enter" && isOnChoice) {
    if (!event.repeat) {
      const focused = event.target.closest(".choice");
      choose(focused ? Number(focused.dataset.number) : state.selected);
    }
  } else if ($("letters").checked && /^[1-9]$/.test(event.key)) {
    if (!event.repeat) {
      choose(Number(event.key) - 1);
    }
  } else if ($("letters").checked && LETTERS[event.key.toLowerCase()]) {
    if (!event.repeat || !ONCE.includes(event.key.toLowerCase())) {
      LETTERS[event.key.toLowerCase()]();
    }
  } else {
    return;
  }
  event.preventDefault();
});

document.addEventListener("click", (event) => {
  if (event.detail > 0) { // a click or a touch; keys are counted above
    state.keys += 1;
  }
}, true);

function onNumber(id, handle) {
  $(id).addEventListener("click", (event) => {
    const button = event.target.closest("[data-number]");
    if (button) {
      handle(Number(button.dataset.number));
    }
  });
}

onNumber("choices", choose);
onNumber("views", showView);
onNumber("strip", (number) => {
  const [chosen] = state.items.splice(number, 1);
  state.items.unshift(chosen);
  show();
});
$("choices").addEventListener("focusin", (event) => {
  const button = event.target.closest("[data-number]");
  if (button) {
    state.selected = Number(button.dataset.number);
    select(state.selected);
  }
});
$("unsure").addEventListener("click", LETTERS.n);
$("none").addEventListener("click", LETTERS.x);
$("skip").addEventListener("click", skip);
$("undo").addEventListener("click", undo);
$("attention").addEventListener("click", toggleAttention);
$("again").addEventListener("click", start);
$("help-open").addEventListener("click", LETTERS["?"]);
$("options").addEventListener("click", () => {
  const isOpen = $("options").closest(".bar").classList.toggle("open");
  $("options").setAttribute("aria-expanded", String(isOpen));
});
$("retry").addEventListener("click", async () => {
  outbox.flush();
  if ($("retry").dataset.loads) {
    await more();
    show();
  }
});
document.querySelectorAll("[data-queue][type=button]").forEach((button) => {
  button.addEventListener("click", () => setQueue(button.dataset.queue));
});
$("order").addEventListener("change", () => {
  state.order = $("order").value;
  start();
});
$("others").addEventListener("change", start);
$("reviewer").value = state.reviewer;
$("reviewer").addEventListener("change", () => {
  state.reviewer = $("reviewer").value.trim() || page.reviewer;
  $("reviewer").value = state.reviewer;
  localStorage.setItem(`atlas-reviewer of ${page.reviewer}`, state.reviewer);
  start();
});
$("letters").checked = localStorage.getItem("atlas-letters") !== "off";
$("letters").addEventListener("change", () => localStorage.setItem("atlas-letters", $("letters").checked ? "on" : "off"));
$("image").addEventListener("error", () => {
  $("stage-note").hidden = false;
  $("stage-note").textContent = "The image could not be drawn.";
});

start();
