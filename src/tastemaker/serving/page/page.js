// The page: a history on one side, what two models make of it on the other.
const $ = (id) => document.getElementById(id);
const state = { user: null, history: [], models: [], places: [], asked: 0 };
const LENGTH = 10;

async function ask(path, body) {
  const options = body === undefined ? {} : {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  };
  const answer = await fetch(path, options);
  const said = await answer.json();
  if (!answer.ok) throw new Error(said.error ? said.error.message : answer.statusText);
  return said;
}

function made(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

const titleOf = (item) => item.title || item.item;

// The history

function subject() {
  if (state.history.length || state.user === null) {
    return { history: state.history.map((item) => item.item) };
  }
  return { user: state.user };
}

function showHistory(note = "") {
  $("history").replaceChildren(...state.history.map((item, place) => {
    const remove = made("button", { type: "button", textContent: "\u00d7" });
    remove.setAttribute("aria-label", `Remove ${titleOf(item)}`);
    remove.addEventListener("click", () => {
      state.history.splice(place, 1);
      changed();
    });
    return made("li", {}, made("span", { className: "name", textContent: titleOf(item), title: titleOf(item) }), remove);
  }));
  const count = state.history.length;
  $("history-note").textContent = note || (count ? `${count} item${count === 1 ? "" : "s"}` : "No history: what everybody gets.");
  $("clear").hidden = count === 0;
}

function changed(note) {
  showHistory(note);
  recommendAll();
}

function add(item) {
  state.user = null;
  state.history.push({ item: item.item, title: item.title });
  changed();
}

async function showUser(user) {
  try {
    const known = await ask(`page/history?user=${encodeURIComponent(user)}`);
    state.user = user;
    state.history = known.items;
    changed(known.note);
  } catch (error) {
    $("history-note").textContent = error.message;
  }
}

$("user-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const user = $("user").value.trim();
  if (user) showUser(user);
});

$("anyone").addEventListener("click", async () => {
  const { user } = await ask("page/somebody");
  $("user").value = user;
  showUser(user);
});

$("clear").addEventListener("click", () => {
  Object.assign(state, { user: null, history: [] });
  $("user").value = "";
  changed();
  $("search").focus();
});

// Search: a combobox with a list of titles

let found = [];
let chosen = -1;
let searching = 0;

function showFound(items) {
  found = items;
  chosen = items.length ? 0 : -1;
  $("found").replaceChildren(...items.map((item, place) => {
    const option = made("li", { id: `found-${place}`, textContent: titleOf(item) });
    option.setAttribute("role", "option");
    option.addEventListener("mousedown", (event) => {
      event.preventDefault();
      take(place);
    });
    return option;
  }));
  mark();
}

function mark() {
  const open = found.length > 0;
  $("found").hidden = !open;
  $("search").setAttribute("aria-expanded", String(open));
  [...$("found").children].forEach((option, place) => {
    option.setAttribute("aria-selected", String(place === chosen));
    if (place === chosen) option.scrollIntoView({ block: "nearest" });
  });
  if (chosen >= 0) $("search").setAttribute("aria-activedescendant", `found-${chosen}`);
  else $("search").removeAttribute("aria-activedescendant");
}

function take(place) {
  add(found[place]);
  $("search").value = "";
  showFound([]);
}

$("search").addEventListener("input", () => {
  clearTimeout(searching);
  searching = setTimeout(async () => {
    const text = $("search").value.trim();
    const items = text ? (await ask(`page/search?text=${encodeURIComponent(text)}`)).items : [];
    if (text === $("search").value.trim()) showFound(items);
  }, 120);
});

$("search").addEventListener("keydown", (event) => {
  if (event.key === "Escape") showFound([]);
  if (!found.length) return;
  if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    event.preventDefault();
    chosen = (chosen + (event.key === "ArrowDown" ? 1 : found.length - 1)) % found.length;
    mark();
  } else if (event.key === "Enter") {
    event.preventDefault();
    take(chosen);
  }
});

$("search").addEventListener("blur", () => showFound([]));

// The lists

function setUpLists() {
  document.querySelectorAll(".list").forEach((card, place) => {
    card.append($("list-template").content.cloneNode(true));
    const select = card.querySelector("select");
    select.append(...state.models.map((model) => made("option", { value: model.name, textContent: model.name })));
    select.value = state.models[Math.min(place, state.models.length - 1)].name;
    select.addEventListener("change", recommendAll);
    state.places.push({ card, select, items: [] });
  });
}

async function recommendAll() {
  const turn = ++state.asked;
  const whom = subject();
  for (const place of state.places) place.card.classList.add("waiting");
  const answers = await Promise.all(state.places.map(async ({ select }) => {
    try {
      return await ask("recommend", { ...whom, k: LENGTH, model: select.value });
    } catch (error) {
      return { items: [], fault: error.message };
    }
  }));
  if (turn !== state.asked) return;
  const lists = answers.map((answer) => new Set(answer.items.map((item) => item.item)));
  const both = [...lists[0]].filter((item) => lists[1].has(item));
  answers.forEach((answer, index) => showList(state.places[index], answer, new Set(both), whom));
  $("shared").textContent = `The lists share ${both.length} of ${LENGTH} items.`;
}

function showList(place, answer, both, whom) {
  place.card.classList.remove("waiting");
  const basis = place.card.querySelector(".basis");
  basis.textContent = answer.fault || `Rests on ${answer.basis}.`;
  basis.classList.toggle("fault", Boolean(answer.fault));
  place.card.querySelector(".items").replaceChildren(
    ...answer.items.map((item) => made("li", {}, itemLine(item, both.has(item.item), place.select.value, whom))),
  );
}

function itemLine(item, inBoth, model, whom) {
  const line = made("div", { className: item.picture ? "item pictured" : "item" });
  if (item.picture) line.append(made("img", { src: item.picture, alt: "", loading: "lazy" }));
  const title = made("span", { className: inBoth ? "title both" : "title", textContent: titleOf(item) });
  if (inBoth) title.append(made("span", { className: "soft", textContent: " (in both)" }));
  line.append(title, made("span", { className: "score", textContent: item.score.toPrecision(3) }));
  const why = made("button", { type: "button", textContent: "Why?" });
  why.setAttribute("aria-expanded", "false");
  why.setAttribute("aria-label", `Why ${titleOf(item)}?`);
  why.addEventListener("click", () => explain(line, why, item, model, whom));
  const more = made("button", { type: "button", textContent: "Add to history" });
  more.setAttribute("aria-label", `Add ${titleOf(item)} to the history`);
  more.addEventListener("click", () => add(item));
  line.append(made("div", { className: "acts" }, why, more));
  return line;
}

async function explain(line, button, item, model, whom) {
  const shown = line.querySelector(".why");
  button.setAttribute("aria-expanded", String(!shown));
  if (shown) {
    shown.remove();
    return;
  }
  const reasons = made("ul", { className: "why" });
  line.append(reasons);
  try {
    const answer = await ask("explain", { ...whom, item: item.item, model });
    reasons.append(...answer.reasons.map((reason) => made(
      "li",
      {},
      made("span", { textContent: reason.text || `because of ${reason.title || reason.item}` }),
      made("span", { className: "score", textContent: reason.weight ? `${reason.weight > 0 ? "+" : ""}${reason.weight.toPrecision(2)}` : "" }),
    )));
  } catch (error) {
    reasons.append(made("li", { className: "fault", textContent: error.message }));
  }
}

// The runs

function showRuns() {
  $("runs").append(...state.models.map((model) => {
    const tested = (model.metrics && (model.metrics.test || model.metrics.valid)) || {};
    const name = ["ndcg@10", "auc"].find((metric) => typeof tested[metric] === "number");
    return made("a", { href: `page/runs/${encodeURIComponent(model.name)}` }, made(
      "div",
      { className: "card tile" },
      made("div", { className: "name", textContent: `${model.name} (${model.method})` }),
      made("div", { className: "value", textContent: name ? tested[name].toFixed(4) : "-" }),
      made("div", { className: "soft", textContent: `${name || "not tested"} on ${model.data}` }),
    ));
  }));
}

state.models = (await ask("models")).models;
setUpLists();
showRuns();
changed();
