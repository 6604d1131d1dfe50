"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const NARROW = 560;
  const PRINTED = { "--ink": "#000000", "--line": "#bbbbbb", "--soft": "#444444" };

  function theme(printed) {
    const style = getComputedStyle(document.documentElement);
    const get = (name) => (printed ? PRINTED[name] : style.getPropertyValue(name).trim());
    const axis = (side) => ({
      [`${side}.gridcolor`]: get("--line"),
      [`${side}.zerolinecolor`]: get("--line"),
      [`${side}.linecolor`]: get("--line"),
    });
    return {
      "font.color": get("--ink"),
      "legend.font.color": get("--ink"),
      ...axis("xaxis"),
      ...axis("yaxis"),
    };
  }

  function layoutOf(figure, width) {
    const own = structuredClone(figure.layout);
    const narrow = width < NARROW;
    if (narrow && own.meta) own.yaxis.ticktext = own.meta.short;
    return {
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: narrow ? 11 : 13 },
      // A finger that drags shall scroll the page.
      dragmode: narrow ? false : "zoom",
      margin: { l: 56, r: 14, t: 8, b: 46 },
      legend: { orientation: "h", traceorder: "normal", x: 0, y: 1.02, xanchor: "left", yanchor: "bottom" },
      ...own,
      xaxis: { automargin: true, ...own.xaxis },
      yaxis: { automargin: true, ...own.yaxis },
    };
  }

  const config = { responsive: true, displayModeBar: false };
  const drawn = Object.entries(figures).map(([id, figure]) => {
    const place = document.getElementById(id);
    return Plotly.newPlot(place, figure.data, layoutOf(figure, place.clientWidth), config).then(
      () => Plotly.relayout(place, theme(false)),
    );
  });
  const everywhere = (printed) =>
    Object.keys(figures).forEach((id) => Plotly.relayout(id, theme(printed)));

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => everywhere(false));
  addEventListener("beforeprint", () => everywhere(true));
  addEventListener("afterprint", () => everywhere(false));
  Promise.all(drawn).then(() => document.documentElement.setAttribute("data-drawn", drawn.length));
})();
