"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const coloured = (value) => {
    if (typeof value === "string") return /^@\d$/.test(value) ? colour("--c" + value[1]) : value;
    if (Array.isArray(value)) return value.every((one) => typeof one === "number") ? value : value.map(coloured);
    if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, coloured(v)]));
    return value;
  };
  const axis = () => ({ gridcolor: colour("--line"), zerolinecolor: colour("--line"), linecolor: colour("--soft"), automargin: true });
  const draw = (figure) => {
    const layout = {
      ...figure.layout,
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", dragmode: matchMedia("(hover: hover)").matches ? "zoom" : false,
      font: { color: colour("--ink"), family: "system-ui, sans-serif", size: 13 }, margin: { l: 56, r: 16, t: 8, b: 48 },
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
      hoverlabel: { bgcolor: colour("--panel"), bordercolor: colour("--soft"), font: { color: colour("--ink") } },
      xaxis: { ...axis(), ...figure.layout.xaxis }, yaxis: { ...axis(), ...figure.layout.yaxis },
    };
    figure.drawn = true;
    return Plotly.react(figure.at, coloured(figure.data), layout, { displayModeBar: false, responsive: true });
  };
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const figure = entry.isIntersecting && figures.find((one) => one.at === entry.target.id);
      if (figure && !figure.drawn) draw(figure);
    }
  }, { rootMargin: "600px" });
  for (const figure of figures) seen.observe(document.getElementById(figure.at));
  const redraw = () => figures.filter((one) => one.drawn).forEach(draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  matchMedia("print").addEventListener("change", () => figures.forEach(draw));
  addEventListener("beforeprint", () => figures.forEach(draw));

  const order = (a, b) => {
    const x = a.dataset.v, y = b.dataset.v;
    if (x !== undefined && y !== undefined) return Number(x) - Number(y);
    if (x !== undefined || y !== undefined) return x !== undefined ? -1 : 1;
    return a.textContent.localeCompare(b.textContent, undefined, { numeric: true });
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest("th button");
    if (button) {
      const head = button.parentElement, table = head.closest("table"), at = head.cellIndex;
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...table.tBodies[0].rows].sort((a, b) => order(a.cells[at], b.cells[at]) * (down ? -1 : 1));
      table.tBodies[0].append(...rows);
      return;
    }
    const link = event.target.closest("a[data-opens]");
    if (link) {
      event.preventDefault();
      document.getElementById(link.getAttribute("href").slice(1)).showModal();
    } else if (event.target.tagName === "DIALOG") {
      event.target.close();
    }
  });
})();
