/* The search-tree viewer: a tidy tree in SVG. Pan, zoom, fold; arrows walk it, as in any tree of ARIA's. */
const SVG = "http://www.w3.org/2000/svg";
const wood = { trees: [], nodes: [], top: [], focus: 0, x: 20, y: 20, zoom: 1, colour: "v", chars: 24, column: 235 };
const CHAR = 7.25, LINE = 34, ROUND = 46;  // a character, a row; two nodes at their largest and the gap to a label
const LEGIBLE = 0.6;  // below it a tree opens at the chosen node, and not whole

function startTrees(trees) {
  wood.trees = trees;
  if (!byId("trees")) { ready.trees = true; return; }
  byId("trees-lead").textContent = trees.length
    ? `${count(trees.length)} trees, of problems sampled evenly: the same problems in every round.`
    : "This run has no search trees.";
  if (!trees.length) { ready.trees = true; return; }
  byId("tree-panel").hidden = false;
  const several = new Set(trees.map((tree) => tree.run)).size > 1;
  trees.forEach((tree, place) => {
    const right = tree.nodes.some((node) => node.c && node.ok === 1), known = tree.nodes.some((node) => node.c && node.ok >= 0);
    const words = [several ? tree.run : "", `${tree.final ? "final " : ""}round ${tree.round}`, tree.stage,
      known ? (right ? "right" : "wrong") : "", `${tree.all} nodes`, tree.question || tree.id];
    option(byId("tree-pick"), place, words.filter(Boolean).join(" · "));
  });
  byId("tree-pick").addEventListener("change", () => openTree(+byId("tree-pick").value));
  byId("tree-colour").addEventListener("change", () => { wood.colour = byId("tree-colour").value; drawTree(); });
  byId("tree-form").addEventListener("submit", (event) => event.preventDefault());
  byId("tree-in").addEventListener("click", () => zoomBy(1.3));
  byId("tree-out").addEventListener("click", () => zoomBy(1 / 1.3));
  byId("tree-fit").addEventListener("click", fitTree);
  byId("tree-all").addEventListener("click", () => { wood.nodes.forEach((node) => (node.open = true)); drawTree(); fitTree(); });
  byId("tree-way").addEventListener("click", () => { wood.nodes.forEach((node) => (node.open = node.way)); drawTree(); fitTree(); });
  listenTree(byId("tree"));
  const worth = (tree) => (tree.nodes.some((node) => node.c && node.ok === 1) ? 1e6 : 0) + 1e3 * tree.round + tree.nodes.length;  // right, new, large
  const best = trees.reduce((at, tree, place) => (worth(tree) > worth(trees[at]) ? place : at), 0);
  byId("tree-pick").value = best;
  openTree(best);
  ready.trees = true;
}

function openTree(place) {
  const tree = wood.trees[place];
  wood.nodes = tree.nodes.map((row, at) => ({ row, at, kids: [], open: true, way: false, depth: 0 }));
  wood.top = [];
  wood.nodes.forEach((node) => {
    node.up = node.row.u >= 0 ? wood.nodes[node.row.u] : null;
    (node.up ? node.up.kids : wood.top).push(node);
    node.depth = node.up ? node.up.depth + 1 : 0;
  });
  let chosen = wood.nodes.find((node) => node.row.c);
  for (let node = chosen; node; node = node.up) node.way = true;
  const most = Math.max(1, ...wood.nodes.map((node) => node.row.n));
  wood.nodes.forEach((node) => {
    node.size = 5 + 13 * Math.sqrt(node.row.n / most);
    node.open = node.way || wood.nodes.length <= 60 || node.depth < 1;
  });
  byId("tree-colour").disabled = !wood.nodes.some((node) => node.row.l !== undefined);
  const cut = tree.nodes.length < tree.all ? `, the ${tree.nodes.length} most visited of ${tree.all} nodes shown` : "";
  byId("tree").setAttribute("aria-label", `Search tree of ${tree.id}, round ${tree.round}${cut}`);
  wood.focus = (chosen || wood.top[0]).at;
  drawTree();
  fitTree();
  if (wood.zoom < LEGIBLE) readable();
  describe();
}

function readable() {
  const node = wood.nodes[wood.focus], box = byId("tree").getBoundingClientRect();
  wood.zoom = 0.85;
  wood.x = Math.min(box.width * 0.62 - node.px * wood.zoom, 40);
  wood.y = box.height / 2 - node.py * wood.zoom;
  moveStage();
}

function visible() {
  const rows = [], walk = (node) => { rows.push(node); if (node.open) node.kids.forEach(walk); };
  wood.top.forEach(walk);
  return rows;
}

/* Columns as wide as whole labels where they fit; a deep tree has labels of two shorter lines. */
function widen(rows) {
  const columns = 1 + Math.max(...rows.map((node) => node.depth)), room = (byId("tree").getBoundingClientRect().width || 780) / LEGIBLE;
  const wide = (chars) => (chars + 2) * CHAR + ROUND;  // a mark stands behind
  wood.chars = [24, 20, 16, 13, 11, 9].find((chars) => columns * wide(chars) + 44 <= room) || 9;
  wood.column = wide(wood.chars);
}

function layOut(rows) {
  let line = 0;
  widen(rows);
  const place = (node) => {
    const kids = node.open ? node.kids : [];
    kids.forEach(place);
    node.px = node.depth * wood.column;
    node.py = kids.length ? (kids[0].py + kids[kids.length - 1].py) / 2 : line++ * LINE;
  };
  wood.top.forEach(place);
  return rows;
}

function svg(tag, attributes, parent) {
  const made = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (parent) parent.append(made);
  return made;
}

function colourOf(node) {
  const value = wood.colour === "l" ? node.row.l : node.row.v;
  if (value === undefined) return "var(--muted-bg)";
  const share = clamp(value < 0 ? (value + 1) / 2 : value, 0, 1);
  return share < 0.5
    ? `color-mix(in oklab, var(--node-mid) ${share * 200}%, var(--node-low))`
    : `color-mix(in oklab, var(--node-high) ${(share - 0.5) * 200}%, var(--node-mid))`;
}

function stepText(node) { return node.row.s.trim() || (node.up ? "(end)" : "question"); }

function nodeText(node) { return node.row.w ? node.row.a || "no answer" : stepText(node).split("\n")[0]; }  // whole answers begin alike

function wordsOf(node) {
  const row = node.row, said = [node.row.w ? `${row.w}: ${row.a || "no answer"}` : stepText(node)];
  if (row.v !== undefined) said.push(`value ${row.v.toFixed(2)}`);
  said.push(`${row.n} visits`);
  if (row.ok >= 0) said.push(row.ok ? "right answer" : "wrong answer");
  if (row.c) said.push("chosen");
  return said.join(", ");
}

function drawTree() {
  const box = byId("tree"), rows = layOut(visible()), had = box.contains(document.activeElement);
  const stage = svg("g", { id: "tree-stage", role: "presentation" });
  for (const node of rows) {
    if (!node.up) continue;
    const mid = (node.up.px + node.px) / 2;
    const way = node.way && node.up.way ? " way" : "";
    svg("path", { class: "edge" + way, d: `M${node.up.px},${node.up.py}C${mid},${node.up.py} ${mid},${node.py} ${node.px},${node.py}`, "aria-hidden": "true" }, stage);
  }
  if (!rows.some((node) => node.at === wood.focus)) wood.focus = rows[0].at;
  rows.forEach((node) => stage.append(drawNode(node)));
  box.replaceChildren(stage);
  moveStage();
  if (had) focusNode();
}

function drawNode(node) {
  const r = node.size, siblings = node.up ? node.up.kids : wood.top;
  const g = svg("g", { class: "node" + (node.way ? " way" : ""), role: "treeitem", "data-at": node.at,
    transform: `translate(${node.px},${node.py})`, tabindex: node.at === wood.focus ? 0 : -1,
    "aria-level": node.depth + 1, "aria-posinset": siblings.indexOf(node) + 1, "aria-setsize": siblings.length,
    "aria-selected": node.at === wood.focus, "aria-label": wordsOf(node) });
  if (node.kids.length) g.setAttribute("aria-expanded", node.open);
  svg("circle", { class: "halo", r: r + 5 }, g);
  const look = { class: "shape", style: `fill:${colourOf(node)}` };
  if (node.row.t) svg("rect", { ...look, x: -r, y: -r, width: 2 * r, height: 2 * r, rx: 3 }, g);
  else svg("circle", { ...look, r }, g);
  if (node.kids.length && !node.open) svg("text", { class: "plus", y: 4 }, g).textContent = "+";
  const text = nodeText(node), mark = node.row.ok === 1 ? " \u2713" : node.row.ok === 0 ? " \u2717" : "";
  const lines = labelOf(text, mark), label = svg("text", { class: "label" }, g);
  lines.forEach((each, at) => (svg("tspan", { x: r + 6, y: lines.length > 1 ? 18 * at - 5 : -8 }, label).textContent = each));
  return g;
}

/* The lines of a label and its mark, none longer than a column has room for; the edge runs between them. */
function labelOf(text, mark) {
  const most = wood.chars, cut = (words) => (words.length > most ? words.slice(0, most - 1).trimEnd() + "\u2026" : words);
  if (text.length <= most || most >= 24) return [cut(text) + mark];
  const space = text.lastIndexOf(" ", most), end = space > most / 2 ? space : most;
  return [text.slice(0, end).trim(), cut(text.slice(end).trim()) + mark];
}

function describe() {
  const node = wood.nodes[wood.focus], row = node.row, box = byId("tree-detail"), path = [];
  for (let at = node; at && at.up; at = at.up) path.unshift(at);
  const tree = wood.trees[+byId("tree-pick").value || 0];
  const parts = [make("h3", "", row.w ? `${row.w[0].toUpperCase()}${row.w.slice(1)}, depth ${node.depth}` : node.up ? `Step ${node.depth}` : "The question")];
  parts.push(make("p", "question", node.up || row.w ? stepText(node) : tree.question || tree.id));
  const list = make("dl"), fact = (key, value) => list.append(make("dt", "", key), make("dd", "", value));
  if (row.v !== undefined) fact("value", row.v.toFixed(3));
  if (row.l !== undefined) fact("label", row.l.toFixed(3));
  fact("visits", count(row.n));
  if (row.q !== undefined) fact("prior", row.q.toFixed(3));
  if (row.a !== undefined) fact("answer", row.a || "none");
  if (row.ok >= 0) fact("is", row.ok ? "right" : "wrong");
  if (row.c) fact("chosen", "by the search");
  if (row.kept) fact("kept", "as a training row");
  if (node.kids.length) fact(row.w ? "went on to" : "next steps", count(node.kids.length));
  parts.push(list);
  if (path.length > 1) {
    parts.push(make("h3", "", "The way here"));
    const steps = make("ol", "steps bare");
    path.forEach((each) => {
      const line = steps.appendChild(make("li"));
      if (each.row.w) line.append(make("span", "act", each.row.w));
      line.append(make("span", "", stepText(each)));
    });
    parts.push(steps);
  }
  if (node.up && tree.question) parts.push(make("p", "facts", tree.question + (tree.answer ? ` · gold ${tree.answer}` : "")));
  box.replaceChildren(...parts);
}

function moveStage() { byId("tree-stage").setAttribute("transform", `translate(${wood.x},${wood.y}) scale(${wood.zoom})`); }

function zoomBy(factor, at) {
  const box = byId("tree").getBoundingClientRect(), [x, y] = at || [box.width / 2, box.height / 2];
  const zoom = clamp(wood.zoom * factor, 0.08, 4), real = zoom / wood.zoom;
  wood.x = x - (x - wood.x) * real;
  wood.y = y - (y - wood.y) * real;
  wood.zoom = zoom;
  moveStage();
}

function fitTree() {
  const box = byId("tree").getBoundingClientRect(), rows = visible();
  const wide = Math.max(...rows.map((node) => node.px)) + wood.column + 44, high = Math.max(...rows.map((node) => node.py)) + 70;
  wood.zoom = clamp(Math.min(box.width / wide, box.height / high), 0.08, 1.4);
  wood.x = 34 * wood.zoom + 6;
  wood.y = Math.max(36 * wood.zoom, (box.height - high * wood.zoom) / 2 + 36 * wood.zoom);
  moveStage();
}

function focusNode() {
  const made = byId("tree").querySelector(`[data-at="${wood.focus}"]`);
  if (made) made.focus({ preventScroll: true });
  const node = wood.nodes[wood.focus], box = byId("tree").getBoundingClientRect();
  const x = wood.x + node.px * wood.zoom, y = wood.y + node.py * wood.zoom;
  if (x < 20 || x > box.width - 60) wood.x += box.width / 2 - x;
  if (y < 20 || y > box.height - 20) wood.y += box.height / 2 - y;
  moveStage();
}

function goTo(node, fold = false) {
  if (!node) return;
  wood.focus = node.at;
  if (fold && node.kids.length) node.open = !node.open;
  drawTree();
  focusNode();
  describe();
}

function treeKey(event) {
  const node = wood.nodes[wood.focus], rows = visible(), at = rows.indexOf(node);
  const act = {
    ArrowDown: () => goTo(rows[at + 1]), ArrowUp: () => goTo(rows[at - 1]),
    ArrowRight: () => (node.kids.length && !node.open ? goTo(node, true) : goTo(node.kids[0])),
    ArrowLeft: () => (node.kids.length && node.open ? goTo(node, true) : goTo(node.up)),
    Enter: () => goTo(node, true), " ": () => goTo(node, true),
    Home: () => goTo(rows[0]), End: () => goTo(rows[rows.length - 1]),
    "+": () => zoomBy(1.3), "=": () => zoomBy(1.3), "-": () => zoomBy(1 / 1.3), 0: fitTree,
  }[event.key];
  if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  act();
}

function listenTree(box) {
  const touches = new Map();
  let moved = 0;
  box.addEventListener("keydown", treeKey);
  box.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !box.contains(document.activeElement)) return;  // the page scrolls until the tree is in use
    event.preventDefault();
    const edge = box.getBoundingClientRect();
    zoomBy(Math.exp(-event.deltaY * 0.0015), [event.clientX - edge.left, event.clientY - edge.top]);
  }, { passive: false });
  box.addEventListener("pointerdown", (event) => { touches.set(event.pointerId, event); moved = 0; });
  box.addEventListener("pointermove", (event) => {
    const last = touches.get(event.pointerId);
    if (!last) return;
    const other = [...touches.values()].find((each) => each.pointerId !== event.pointerId);
    moved += Math.abs(event.clientX - last.clientX) + Math.abs(event.clientY - last.clientY);
    if (moved > 4 && !box.hasPointerCapture(event.pointerId)) box.setPointerCapture(event.pointerId);
    if (other) {
      const span = (a) => Math.hypot(a.clientX - other.clientX, a.clientY - other.clientY) || 1;
      const edge = box.getBoundingClientRect();
      zoomBy(span(event) / span(last), [other.clientX - edge.left, other.clientY - edge.top]);
    } else {
      wood.x += event.clientX - last.clientX;
      wood.y += event.clientY - last.clientY;
      moveStage();
    }
    touches.set(event.pointerId, event);
  });
  const end = (event) => touches.delete(event.pointerId);
  box.addEventListener("pointerup", end);
  box.addEventListener("pointercancel", end);
  box.addEventListener("click", (event) => {
    const hit = event.target.closest(".node");
    if (hit && moved < 5) goTo(wood.nodes[+hit.dataset.at], true);
  });
}
