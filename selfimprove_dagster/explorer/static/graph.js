// Draws the ancestry of a record with cytoscape; a click or Enter goes to the record of a node.
"use strict";
(() => {
  const frame = document.querySelector(".graph");
  const canvas = frame.querySelector(".canvas");
  const status = document.getElementById("graph-status");
  const data = JSON.parse(document.getElementById("graph-data").textContent);
  frame.hidden = false;

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const kinds = {
    accepted: "--kind-seed", tasks: "--kind-seed", seed_pool: "--kind-question", raw_generations: "--kind-path",
    instance_generations: "--kind-path", task_outputs: "--kind-path", paraphrases: "--kind-path",
    texts: "--kind-seed", tool_results: "--kind-vote",
    voted_answers: "--kind-vote", accepted_tasks: "--kind-vote", filtered_dataset: "--kind-example",
  };
  const font = "system-ui, sans-serif";
  const pen = document.createElement("canvas").getContext("2d");
  pen.font = `13px ${font}`;

  const look = () => [
    { selector: "node", style: {
      shape: "round-rectangle", width: "data(width)", height: 28, label: "data(label)",
      "font-family": font, "font-size": 13, color: colour("--ink"), "text-valign": "center",
      "background-color": (node) => colour(kinds[node.data("kind")] || "--kind-other"),
      "border-width": 1, "border-color": colour("--edge"),
    } },
    { selector: "node[?here]", style: { "border-width": 3, "border-color": colour("--accent"), "font-weight": "bold" } },
    { selector: "node[?revoked]", style: { "border-style": "dashed", "border-color": colour("--bad"), color: colour("--bad") } },
    { selector: "node:selected", style: { "border-width": 3, "border-color": colour("--ink") } },
    { selector: "edge", style: {
      width: 1.4, "line-color": colour("--edge"), "target-arrow-color": colour("--edge"), "target-arrow-shape": "triangle",
      "arrow-scale": 0.8, "curve-style": "straight",
    } },
    { selector: "edge.near", style: { "line-color": colour("--accent"), "target-arrow-color": colour("--accent"), width: 2 } },
  ];
  const graph = cytoscape({
    container: canvas,
    elements: [
      ...data.nodes.map((node) => ({ data: { ...node, width: pen.measureText(node.label).width + (node.here ? 34 : 24) } })),
      ...data.edges.map((edge) => ({ data: edge })),
    ],
    style: look(),
    layout: { name: "dagre", rankDir: "LR", nodeSep: 10, rankSep: 110, fit: true, padding: 12 },
    userZoomingEnabled: false, boxSelectionEnabled: false, autoungrabify: true, selectionType: "single",
    minZoom: 0.2, maxZoom: 2,
  });

  // The frame is as tall as the graph needs, at most the height in the style sheet.
  const needed = 1.1 * graph.elements().boundingBox().h + 60;
  if (needed < canvas.clientHeight) {
    canvas.style.height = `${Math.max(needed, 130)}px`;
    graph.resize();
  }

  // A graph that is too large for the frame starts at a readable size, at the record itself.
  const whole = () => {
    graph.fit(undefined, 12);
    if (graph.zoom() > 1.1) { graph.zoom(1.1); graph.center(); }
  };
  whole();
  if (graph.zoom() < 0.5) {
    graph.zoom(0.7);
    graph.center(graph.$("[?here]"));
    graph.panBy({ x: canvas.clientWidth * 0.28, y: 0 });
  }

  const go = (node) => location.assign(node.data("href"));
  graph.on("tap", "node", (event) => go(event.target));
  graph.on("mouseover", "node", () => { canvas.style.cursor = "pointer"; });
  graph.on("mouseout", "node", () => { canvas.style.cursor = ""; });

  const choose = (node) => {
    graph.elements().unselect();
    graph.edges().removeClass("near");
    node.select();
    node.connectedEdges().addClass("near");
    const { x1, y1, x2, y2 } = graph.extent();
    const { x, y } = node.position();
    if (x < x1 || x > x2 || y < y1 || y > y2) graph.center(node);
    const roles = [...new Set(node.outgoers("edge").map((edge) => edge.data("role")))].join(", ");
    status.textContent = `${node.data("label")}${roles ? `, as ${roles}` : ""}. Press Enter to open it.`;
  };

  // Returns the nearest node in the direction of the key.
  const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const next = (from, [dx, dy]) => {
    const start = from.position();
    let best = null, least = Infinity;
    graph.nodes().forEach((node) => {
      const x = node.position("x") - start.x, y = node.position("y") - start.y;
      const ahead = dx * x + dy * y, aside = Math.abs(dy * x + dx * y);
      if (ahead < 5) return;
      const distance = ahead + 3 * aside;
      if (distance < least) { least = distance; best = node; }
    });
    return best;
  };
  canvas.addEventListener("keydown", (event) => {
    const chosen = graph.$("node:selected");
    if (event.key === "Enter" && chosen.length) { go(chosen[0]); return; }
    const way = ways[event.key];
    if (!way || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    const found = chosen.length ? next(chosen[0], way) : null;
    choose(found || (chosen.length ? chosen[0] : graph.$("[?here]")[0]));
  });
  canvas.addEventListener("focus", () => { if (!graph.$("node:selected").length) choose(graph.$("[?here]")[0]); });

  frame.querySelectorAll("[data-zoom]").forEach((button) => button.addEventListener("click", () => {
    if (button.dataset.zoom === "fit") { whole(); return; }
    const level = graph.zoom() * (button.dataset.zoom === "in" ? 1.25 : 0.8);
    graph.zoom({ level, renderedPosition: { x: canvas.clientWidth / 2, y: canvas.clientHeight / 2 } });
  }));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => graph.style(look()));
})();
