/* The trace browser: search, filters, pages. Everything a model wrote goes in as text. */
const PAGE = 20;
const browser = { shown: [], page: 0, data: null, texts: [], problem: -1, text: "" };

function startTraces(data) {
  browser.data = data;
  if (!byId("traces")) { ready.traces = true; return; }
  const rows = data.columns, total = rows.id.length;
  const sampled = total < data.total
    ? `${count(total)} of ${count(data.total)} traces, sampled evenly by problem: the same problems in every round, all their traces.`
    : `All ${count(total)} traces.`;
  byId("traces-lead").textContent = total ? sampled : "No stage has written traces yet.";
  if (!total) { ready.traces = true; return; }
  fillFilters(data);
  byId("filters").hidden = false;
  let wait = 0;
  byId("filters").addEventListener("input", (event) => {
    clearTimeout(wait);
    if (event.target.id !== "f-score" && event.target.id !== "f-order") browser.problem = event.target.id === "f-text" ? -1 : browser.problem;
    wait = setTimeout(findTraces, event.target.id === "f-text" ? 150 : 0);
  });
  byId("filters").addEventListener("reset", () => { browser.problem = -1; setTimeout(findTraces); });
  byId("filters").addEventListener("submit", (event) => { event.preventDefault(); findTraces(); });
  byId("page-first").addEventListener("click", () => turn(0));
  byId("page-back").addEventListener("click", () => turn(browser.page - 1));
  byId("page-next").addEventListener("click", () => turn(browser.page + 1));
  byId("page-last").addEventListener("click", () => turn(Infinity));
  document.querySelectorAll("[data-preset]").forEach((link) => link.addEventListener("click", showGood));
  findTraces();
  ready.traces = true;
}

function fillFilters(data) {
  const distinct = (values) => [...new Set(values)];
  const fill = (id, entries) => { option(byId(id), "", "any"); entries.forEach(([value, text]) => option(byId(id), value, text)); };
  fill("f-run", data.runs.map((name, place) => [place, name]));
  byId("l-run").hidden = data.runs.length < 2;
  byId("l-run").style.display = data.runs.length < 2 ? "none" : "";
  fill("f-stage", distinct(data.groups.map((g) => g.stage)).map((name) => {
    const g = data.groups.find((each) => each.stage === name);
    return [name, `${name} (${g.split})`];
  }));
  fill("f-round", distinct(data.groups.map((g) => g.round)).sort((a, b) => a - b).map((r) => [r, r]));
  const fates = data.fates.map((name, place) => [place, name]).filter(([, name]) => name);
  const kept = fates.find(([, name]) => name === "kept"), dropped = fates.filter(([, name]) => name !== "kept");
  fill("f-fate", [
    ...(kept ? [[String(kept[0]), "kept"]] : []),
    ...(dropped.length ? [["dropped", "dropped, any reason"]] : []),
    ...dropped.map(([place, name]) => [String(place), `dropped: ${name.replaceAll("_", " ")}`]),
  ]);
  const raters = new Set();
  for (const scores of data.columns.sc) if (scores) Object.keys(scores).forEach((name) => raters.add(name));
  const order = [...raters].sort((a, b) => (a === "gold") - (b === "gold"));
  if (order.length > 1) option(byId("f-score"), "", "whoever scored it");
  order.forEach((name) => option(byId("f-score"), name, name === "gold" ? "the task's own check" : name));
  option(byId("f-score"), "-", "nobody");
  byId("score-key").hidden = !order.length;
}

function textOf(place) {
  if (browser.texts[place] === undefined) {
    const rows = browser.data.columns, problem = browser.data.problems[rows.p[place]];
    browser.texts[place] = [problem[0], problem[1], rows.steps[place].join(""), rows.a[place] ?? ""].join("\n").toLowerCase();
  }
  return browser.texts[place];
}

function findTraces() {
  const rows = browser.data.columns, groups = browser.data.groups, fates = browser.data.fates;
  const at = (id) => byId(id).value;
  const text = at("f-text").trim().toLowerCase(), [run, stage, round, ok, fate, change, kind] =
    ["f-run", "f-stage", "f-round", "f-ok", "f-fate", "f-change", "f-kind"].map(at);
  const found = [];
  for (let i = 0; i < rows.id.length; i++) {
    const group = groups[rows.g[i]];
    if (run !== "" && group.run !== +run) continue;
    if (stage && group.stage !== stage) continue;
    if (round !== "" && group.round !== +round) continue;
    if (ok !== "" && rows.ok[i] !== +ok) continue;
    if (fate === "dropped" ? ["", "kept"].includes(fates[rows.fate[i]]) : fate !== "" && rows.fate[i] !== +fate) continue;
    if (change !== "" && (rows.flag[i] & 3) !== +change) continue;
    if (+kind && !(rows.flag[i] & +kind)) continue;
    if (browser.problem >= 0 && rows.p[i] !== browser.problem) continue;
    if (text && !textOf(i).includes(text)) continue;
    found.push(i);
  }
  const order = at("f-order"), none = order === "high" ? -Infinity : Infinity;
  if (order === "long") found.sort((a, b) => rows.n[b] - rows.n[a]);
  else if (order) found.sort((a, b) => ((rows.score[a] ?? none) - (rows.score[b] ?? none)) * (order === "high" ? -1 : 1));
  browser.shown = found;
  browser.text = text;
  turn(0, true);
}

function turn(page, fresh = false) {
  const last = Math.max(0, Math.ceil(browser.shown.length / PAGE) - 1);
  browser.page = clamp(page, 0, last);
  const from = browser.page * PAGE, part = browser.shown.slice(from, from + PAGE);
  const only = browser.problem >= 0 ? ` of ${browser.data.problems[browser.problem][0]}` : "";
  byId("traces-count").textContent = `${count(browser.shown.length)} traces${only}` +
    (part.length ? `, ${count(from + 1)} to ${count(from + part.length)} shown` : ": loosen a filter, or clear them");
  byId("trace-list").replaceChildren(...part.map(traceItem));
  byId("pager").hidden = last === 0;
  byId("page-where").textContent = `page ${browser.page + 1} of ${last + 1}`;
  byId("page-first").disabled = byId("page-back").disabled = browser.page === 0;
  byId("page-next").disabled = byId("page-last").disabled = browser.page === last;
  if (!fresh) byId("traces-count").scrollIntoView({ block: "start" });
}

function traceItem(i) {
  const { columns: rows, groups, problems, fates, models, runs } = browser.data;
  const group = groups[rows.g[i]], [id, question, answer, difficulty] = problems[rows.p[i]];
  const item = make("li"), card = item.appendChild(make("article")), head = card.appendChild(make("h3"));
  const [word, look] = { 1: ["right", "good"], 0: ["wrong", "bad"], "-1": ["not judged", ""] }[rows.ok[i]];
  head.append(make("span", "tag " + look, word));
  const fate = fates[rows.fate[i]], flag = rows.flag[i];
  if (fate) head.append(make("span", "tag " + (fate === "kept" ? "good" : ""), fate === "kept" ? "kept" : "dropped: " + fate.replaceAll("_", " ")));
  [[1, "newly solved"], [2, "newly lost"]].forEach(([n, text]) => (flag & 3) === n && head.append(make("span", "tag info", text)));
  [[4, "chosen"], [8, "hinted"], [16, "greedy"]].forEach(([bit, text]) => flag & bit && head.append(make("span", "tag", text)));
  const where = `${runs.length > 1 ? runs[group.run] + ", " : ""}${group.final ? "final after " : ""}round ${group.round}, ${group.stage}, ${id}`;
  head.append(make("span", "where", where));
  if (question) card.append(make("p", "question", question));
  card.append(stepList(rows.steps[i], rows.sc[i]));
  const facts = card.appendChild(make("p", "facts"));
  facts.append("answer ", make("b", "", rows.a[i] ?? (rows.why[i] === "no answer" ? "none" : `none: ${rows.why[i]}`)));
  if (answer) facts.append(", gold ", make("b", "", answer));
  const more = [`${rows.n[i]} tokens`, `ended by ${rows.end[i]}`, models[rows.model[i]], difficulty];
  const rater = raterOf(rows.sc[i]);
  if (rater) more.push(rater === "gold" ? "steps checked by the task" : `steps scored by ${rater}`);
  if (rows.score[i] !== null) more.push(`score ${rows.score[i].toFixed(3)}`);
  facts.append(" · " + more.filter(Boolean).join(" · "));
  return item;
}

function raterOf(scores) {
  const wanted = byId("f-score").value, names = Object.keys(scores || {});
  if (wanted) return names.includes(wanted) ? wanted : null;
  return names.find((name) => name !== "gold") || names[0] || null;
}

function stepList(steps, scores) {
  const wanted = raterOf(scores), given = wanted ? scores[wanted] : null;
  const list = make("ol", given ? "steps" : "steps bare");
  steps.forEach((step, place) => {
    const line = list.appendChild(make("li"));
    const score = given ? given[place] : undefined;
    if (given) line.append(make("span", "", score === null || score === undefined ? "" : score.toFixed(2)));
    const text = make("span", "", step.replace(/\n$/, ""));
    if (typeof score === "number") {
      text.classList.add("scored");
      text.style.setProperty("--s", clamp(given.some((each) => each < 0) ? (score + 1) / 2 : score, 0, 1));
    }
    line.append(text);
  });
  return list;
}

function startLearned(data) {
  document.querySelectorAll("[data-learned]").forEach((place) => {
    for (const row of data.learned[+place.dataset.learned]) {
      for (const [key, words] of [["solved", "newly solved"], ["lost", "newly lost"]]) {
        if (!row[key].length) continue;
        const box = place.appendChild(make("details"));
        const cut = row[key].length < row["num_" + key] ? `, the first ${row[key].length} listed` : "";
        box.append(make("summary", "", `Round ${row.round}: ${count(row["num_" + key])} ${words} (${row.stage}${cut})`));
        const list = box.appendChild(make("ul", "problems"));
        row[key].forEach((p) => {
          const button = list.appendChild(make("li")).appendChild(make("button", "", data.problems[p][1] || data.problems[p][0]));
          button.type = "button";
          button.title = "Show its traces";
          button.addEventListener("click", () => showProblem(p, row.stage));
        });
      }
    }
  });
}

function showGood(event) {
  event.preventDefault();
  byId("filters").reset();
  setTimeout(() => {
    byId("f-ok").value = "1";
    const kept = browser.data.fates.indexOf("kept");
    if (kept >= 0) byId("f-fate").value = String(kept);
    findTraces();
    byId("traces").scrollIntoView();
    byId("f-ok").focus({ preventScroll: true });
  });
}

function showProblem(problem, stage) {
  byId("filters").reset();
  setTimeout(() => {
    byId("f-stage").value = stage;
    browser.problem = problem;
    findTraces();
    byId("traces").scrollIntoView();
    byId("f-text").focus({ preventScroll: true });
  });
}
