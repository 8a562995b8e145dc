// Draws each chart of the page with uPlot from the JSON next to it; the table next to it has the same values.
"use strict";
(() => {
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // Line styles that distinguish the series, as in pages.css; they repeat if there are more series.
  const dashes = [[6, 4], [], [2, 3], [10, 3, 2, 3]];
  const style = (data, at) => (data.series.length > 1 ? at % dashes.length : 1);

  // Draws intervals as whiskers, moved apart so that several series can be distinguished.
  const whiskers = (data) => (plot) => {
    const { ctx } = plot;
    ctx.save();
    data.series.forEach((series, at) => {
      ctx.strokeStyle = colour(`--series-${style(data, at) + 1}`);
      ctx.lineWidth = 1.5 * devicePixelRatio;
      series.intervals.forEach((interval, point) => {
        if (!interval) return;
        const x = plot.valToPos(data.x[point], "x", true) + (6 * at - 3 * (data.series.length - 1)) * devicePixelRatio;
        const [low, high] = interval.map((value) => plot.valToPos(value, "y", true));
        const half = 3 * devicePixelRatio;
        ctx.beginPath();
        ctx.moveTo(x, low); ctx.lineTo(x, high);
        ctx.moveTo(x - half, low); ctx.lineTo(x + half, low);
        ctx.moveTo(x - half, high); ctx.lineTo(x + half, high);
        ctx.stroke();
      });
    });
    ctx.restore();
  };

  // Returns a range that contains every value and interval and is never empty.
  const range = (data) => {
    const all = data.series.flatMap((series) => [...series.values, ...series.intervals.flat()]);
    const values = all.filter((value) => value !== null);
    if (!values.length) return [0, 1];
    const low = Math.min(...values), high = Math.max(...values);
    const room = (high - low || Math.abs(high) || 1) * 0.15;
    return [low < 0 ? low - room : Math.max(0, low - room), high + room];
  };

  const draw = (place) => {
    const data = JSON.parse(document.getElementById(place.dataset.chart).textContent);
    const width = place.clientWidth, height = Math.max(place.clientHeight, 180);
    const many = data.x.length > 12;
    const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false } };
    const label = (value) => (data.percent ? `${+(100 * value).toFixed(2)}%` : `${+value.toPrecision(4)}`);
    const options = {
      width, height,
      legend: { show: false }, cursor: { show: false }, padding: [12, 16, 0, 4],
      scales: {
        x: { time: false, range: many ? undefined : [Math.min(...data.x) - 0.4, Math.max(...data.x) + 0.4] },
        y: { range: range(data) },
      },
      axes: [
        { ...axis, size: 32, grid: { show: false }, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000, 10000] },
        { ...axis, size: 62, values: (_, ticks) => ticks.map(label) },
      ],
      series: [
        {},
        ...data.series.map((series, at) => {
          const chosen = style(data, at), stroke = colour(`--series-${chosen + 1}`);
          return {
            stroke, width: many ? 1.5 : 2.5, dash: dashes[chosen],
            points: { show: !many, size: 8, fill: chosen % 2 ? stroke : colour("--card") },
          };
        }),
      ],
      hooks: { draw: [whiskers(data)] },
    };
    place.replaceChildren();
    new uPlot(options, [data.x, ...data.series.map((series) => series.values)], place);
  };

  const all = () => document.querySelectorAll("[data-chart]").forEach(draw);
  all();
  addEventListener("renewed", all);
  let waiting;
  addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(all, 150); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", all);
})();
