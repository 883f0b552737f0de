/* The trace browser: search, filters, pages. Everything a model wrote goes in as text. */
const PAGE = 20;
const browser = { shown: [], found: 0, talks: new Map(), page: 0, data: null, texts: [], problem: -1, text: "" };

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
  for (let i = 0; i < total; i++) {
    const root = rootOf(i);
    if (root !== i) browser.talks.set(root, [...(browser.talks.get(root) || [root]), i]);
  }
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
  browser.found = found.length;
  browser.shown = [...new Map(found.map((i) => [rootOf(i), i])).keys()];  // turns of one conversation stand together
  browser.text = text;
  turn(0, true);
}

function turn(page, fresh = false) {
  const last = Math.max(0, Math.ceil(browser.shown.length / PAGE) - 1);
  browser.page = clamp(page, 0, last);
  const from = browser.page * PAGE, part = browser.shown.slice(from, from + PAGE);
  const only = browser.problem >= 0 ? ` of ${browser.data.problems[browser.problem][0]}` : "";
  const talks = browser.shown.length < browser.found ? ` in ${count(browser.shown.length)} conversations or single answers` : "";
  byId("traces-count").textContent = `${count(browser.found)} traces${only}${talks}` +
    (part.length ? `, ${count(from + 1)} to ${count(from + part.length)} shown` : ": loosen a filter, or clear them");
  byId("trace-list").replaceChildren(...part.map(traceItem));
  byId("pager").hidden = last === 0;
  byId("page-where").textContent = `page ${browser.page + 1} of ${last + 1}`;
  byId("page-first").disabled = byId("page-back").disabled = browser.page === 0;
  byId("page-next").disabled = byId("page-last").disabled = browser.page === last;
  if (!fresh) byId("traces-count").scrollIntoView({ block: "start" });
}

/* The first turn of the conversation that a trace is of: itself where it is none. */
function rootOf(i) {
  const up = browser.data.columns.up;
  for (let far = 0; up[i] >= 0 && far < 100; far++) i = up[i];
  return i;
}

function isAttempt(i) { return browser.data.attempts.includes(browser.data.acts[browser.data.columns.act[i]]); }

function traceItem(i) {
  const { columns: rows, groups, problems, runs } = browser.data;
  const group = groups[rows.g[i]], [id, question] = problems[rows.p[i]];
  const turns = browser.talks.get(i) || [i], talk = turns.length > 1;
  const item = make("li"), card = item.appendChild(make("article")), head = card.appendChild(make("h3"));
  const last = turns.filter(isAttempt).pop() ?? i;
  head.append(...traceTags(talk ? last : i));
  if (talk) head.append(make("span", "tag", `${turns.length} turns`));
  const where = `${runs.length > 1 ? runs[group.run] + ", " : ""}${group.final ? "final after " : ""}round ${group.round}, ${group.stage}, ${id}`;
  head.append(make("span", "where", where));
  if (question) card.append(make("p", "question", question));
  if (!talk) return card.append(stepList(rows.steps[i], rows.sc[i]), traceFacts(i)), item;
  const list = card.appendChild(make("ol", "talk"));
  turns.forEach((each) => {
    const line = list.appendChild(make("li")), top = line.appendChild(make("h4", "", browser.data.acts[rows.act[each]] || "answer"));
    top.append(...traceTags(each));
    line.append(stepList(rows.steps[each], rows.sc[each]), traceFacts(each));
  });
  return item;
}

/* What is known of a trace: right or wrong, or what a critique says and whether that is so; its fate; its marks. */
function traceTags(i) {
  const { columns: rows, fates } = browser.data, tags = [], tag = (look, text) => tags.push(make("span", "tag " + look, text));
  if (isAttempt(i)) {
    const [word, look] = { 1: ["right", "good"], 0: ["wrong", "bad"], "-1": ["not judged", ""] }[rows.ok[i]];
    if (rows.ok[i] >= 0 || rows.said[i] < 0) tag(look, word);
    if (rows.said[i] >= 0) tag("info", rows.said[i] ? "called right" : "called wrong");
  } else {
    tag("info", rows.a[i] === null ? "says nothing that is read" : `says ${rows.a[i].length > 40 ? rows.a[i].slice(0, 39) + "\u2026" : rows.a[i]}`);
    let about = rows.up[i];
    for (let far = 0; about >= 0 && !isAttempt(about) && far < 100; far++) about = rows.up[about];
    if (about >= 0 && rows.ok[about] >= 0 && ["right", "wrong"].includes(rows.a[i])) {
      const so = (rows.a[i] === "right") === (rows.ok[about] === 1);
      tag(so ? "good" : "bad", so ? "true verdict" : "false verdict");
    }
  }
  const fate = fates[rows.fate[i]], flag = rows.flag[i];
  if (fate) tag(fate === "kept" ? "good" : "", fate === "kept" ? "kept" : "dropped: " + fate.replaceAll("_", " "));
  [[1, "newly solved"], [2, "newly lost"]].forEach(([n, text]) => (flag & 3) === n && tag("info", text));
  [[4, "chosen"], [8, "hinted"], [16, "greedy"]].forEach(([bit, text]) => flag & bit && tag("", text));
  return tags;
}

function traceFacts(i) {
  const { columns: rows, problems, models } = browser.data, [, , answer, difficulty] = problems[rows.p[i]];
  const facts = make("p", "facts"), attempt = isAttempt(i);
  if (attempt) {
    facts.append("answer ", make("b", "", rows.a[i] ?? (rows.why[i] === "no answer" ? "none" : `none: ${rows.why[i]}`)));
    if (answer) facts.append(", gold ", make("b", "", answer));
  }
  const more = [`${rows.n[i]} tokens`, `ended by ${rows.end[i]}`, models[rows.model[i]], attempt ? difficulty : ""];
  const rater = raterOf(rows.sc[i]);
  if (rater) more.push(rater === "gold" ? "steps checked by the task" : `steps scored by ${rater}`);
  if (rows.score[i] !== null) more.push(`score ${rows.score[i].toFixed(3)}`);
  facts.append((attempt ? " · " : "") + more.filter(Boolean).join(" · "));
  return facts;
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
