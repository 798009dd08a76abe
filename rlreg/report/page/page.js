"use strict";
// Reading a plot's values: under the pointer or a finger, or by the arrow keys. Everything else needs no script.
for (const figure of document.querySelectorAll(".plot")) {
  const plot = JSON.parse(figure.querySelector("script").textContent);
  const [left, right, top, bottom] = plot.box, [x0, x1] = plot.x, [y0, y1] = plot.y;
  const svg = figure.querySelector("svg"), cursor = figure.querySelector(".cursor");
  const reading = figure.querySelector(".reading");
  const places = [...new Set(plot.lines.flatMap((line) => line.points.map((point) => point[0])))].sort((a, b) => a - b);
  const across = (x) => left + ((x - x0) / (x1 - x0)) * (right - left);
  const down = (y) => bottom - ((y - y0) / (y1 - y0)) * (bottom - top);
  let at = -1;

  const nearest = (values, x) =>
    values.reduce((best, value, i) => (Math.abs(value - x) < Math.abs(values[best] - x) ? i : best), 0);
  const shown = (line) => !figure.querySelector(`g[data-line="${line.style}"]`).classList.contains("off");

  function row(text, style) {
    const div = document.createElement("div");
    if (style === undefined) div.className = "head";
    else div.appendChild(document.createElement("i")).className = `i${style % 7}`;
    div.append(text);
    reading.append(div);
  }

  function show(i) {
    at = Math.max(0, Math.min(places.length - 1, i));
    const x = places[at], number = (v) => v.toFixed(plot.decimals);
    let path = `M${across(x)},${top}V${bottom}`;
    reading.replaceChildren();
    row(`${x.toLocaleString("en", { maximumSignificantDigits: 6 })} ${plot.unit}`);
    for (const line of plot.lines.filter(shown)) {
      const point = line.points[nearest(line.points.map((p) => p[0]), x)];
      // A line's own nearest point: others may have been measured at other places.
      const [px, value, low, high] = point;
      if (value === null || Math.abs(across(px) - across(x)) > 8) continue;
      const ends = low === null ? "" : ` [${number(low)}, ${number(high)}]`;
      row(`${line.name}  ${number(value)}${ends}${line.remark ? `, ${line.remark}` : ""}`, line.style);
      path += `M${across(px) - 3},${down(value)}a3,3 0 1,0 6,0a3,3 0 1,0 -6,0`;
    }
    cursor.setAttribute("d", path);
    reading.hidden = false;
    const onRight = across(x) < (left + right) / 2;
    reading.style.left = onRight ? "auto" : `${(left / 320) * 100}%`;
    reading.style.right = onRight ? "2%" : "auto";
  }

  function hide() {
    at = -1;
    cursor.setAttribute("d", "");
    reading.hidden = true;
  }

  function follow(event) {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * 320;
    show(nearest(places, x0 + ((x - left) / (right - left)) * (x1 - x0)));
  }

  figure.addEventListener("pointermove", follow);
  figure.addEventListener("pointerdown", follow);
  figure.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && hide());
  figure.addEventListener("blur", hide);
  figure.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: places.length - 1 };
    if (event.key === "Escape") hide();
    else if (event.key in moves) {
      event.preventDefault();
      show(moves[event.key]);
    }
  });
}

for (const button of document.querySelectorAll(".legend button")) {
  button.addEventListener("click", () => {
    const on = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", on);
    for (const line of button.closest(".set").querySelectorAll(`g[data-line="${button.dataset.line}"]`))
      line.classList.toggle("off", !on);
  });
}
