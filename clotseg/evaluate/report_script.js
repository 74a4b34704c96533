"use strict";
// Tables that sort by a click on a column's head; values that do not exist stay at the end.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const headers = [...table.tHead.rows[0].cells];
  const key = (row, column) => row.cells[column].dataset.sort;
  headers.forEach((header, column) => {
    const numeric = header.classList.contains("number");
    const compare = (a, b) => numeric ? a - b : a.localeCompare(b, "en", {numeric: true});
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      const ascending = header.getAttribute("aria-sort") !== "ascending";
      headers.forEach(other => other.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      const known = [...body.rows].filter(row => key(row, column) !== "");
      const unknown = [...body.rows].filter(row => key(row, column) === "");
      known.sort((a, b) => compare(key(a, column), key(b, column)) * (ascending ? 1 : -1));
      body.append(...known, ...unknown);
    });
  });
}

// One filter for the table and the cases below it.
const words = document.getElementById("words"), kind = document.getElementById("kind");
const rows = [...document.querySelectorAll("#cases tbody tr")];
const articles = [...document.querySelectorAll("article.case")];
function filter() {
  const wanted = words.value.trim().toLowerCase();
  const shown = new Set();
  for (const row of rows) {
    const fits = (!kind.value || row.dataset.kinds.split(" ").includes(kind.value)) &&
      row.textContent.toLowerCase().includes(wanted);
    row.hidden = !fits;
    if (fits) shown.add(row.dataset.case);
  }
  for (const article of articles) article.hidden = !shown.has(article.dataset.case);
  document.getElementById("shown").textContent = `${shown.size} of ${rows.length}`;
}
words.addEventListener("input", filter);
kind.addEventListener("change", filter);
filter();

// Cases: slices lie one below the other in one picture, what is marked in them in another.
const GAP = 4, TRUTH = 85, PREDICTION = 170;
const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const outlines = document.getElementById("outlines");

class Viewer {
  constructor(article) {
    const number = name => Number(article.dataset[name]);
    this.rows = number("rows");
    this.columns = number("columns");
    this.proportion = number("proportion");
    this.slices = article.dataset.slices.split(" ");
    this.scan = article.querySelector(".scan");
    this.marks = article.querySelector(".marks");
    this.view = article.querySelector(".view canvas");
    this.slider = article.querySelector("input[type=range]");
    this.told = article.querySelector("output");
    this.small = [...article.querySelectorAll(".strip button")];
    this.codes = null;
    this.slider.addEventListener("input", () => this.drawView());
    for (const button of this.small) {
      button.addEventListener("click", () => {
        this.slider.value = button.dataset.place;
        this.drawView();
      });
    }
  }

  async ready() {
    if (this.codes) return;
    for (const picture of [this.scan, this.marks]) {
      if (!picture.complete) await new Promise(done => picture.addEventListener("load", done, {once: true}));
    }
    const canvas = document.createElement("canvas");
    canvas.width = this.columns;
    canvas.height = this.rows * this.slices.length;
    const context = canvas.getContext("2d", {willReadFrequently: true});
    context.drawImage(this.marks, 0, 0);
    const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
    this.codes = Uint8Array.from({length: canvas.width * canvas.height}, (_, place) => pixels[4 * place]);
  }

  async draw() {
    await this.ready();
    for (const button of this.small) {
      this.drawSlice(button.firstElementChild, Number(button.dataset.place), 1, 180);
    }
    await this.drawView();
  }

  async drawView() {
    await this.ready();
    const place = Number(this.slider.value);
    this.told.textContent = this.slices[place];
    this.small.forEach(button => button.setAttribute("aria-pressed", Number(button.dataset.place) === place));
    this.drawSlice(this.view, place, 2, 420);
  }

  // Whole pixels, so that none looks larger than another.
  drawSlice(canvas, place, pictures, width) {
    const across = Math.max(1, Math.round(width * (window.devicePixelRatio || 1) / this.columns));
    const down = Math.max(1, Math.round(across * this.proportion));
    canvas.width = pictures * this.columns * across + (pictures - 1) * GAP;
    canvas.height = this.rows * down;
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    for (let picture = 0; picture < pictures; picture++) {
      const left = picture * (this.columns * across + GAP);
      context.drawImage(this.scan, picture * this.columns, place * this.rows, this.columns, this.rows,
        left, 0, this.columns * across, this.rows * down);
      if (!outlines.checked) continue;
      this.outline(context, place, TRUTH, left, across, down, colour("--truth"), pictures === 1 ? 3 : 4);
      this.outline(context, place, PREDICTION, left, across, down, colour("--prediction"), 1.5);
    }
  }

  outline(context, place, bits, left, across, down, stroke, width) {
    const marked = (row, column) => row >= 0 && column >= 0 && row < this.rows && column < this.columns &&
      (this.codes[(place * this.rows + row) * this.columns + column] & bits) !== 0;
    context.strokeStyle = stroke;
    context.lineWidth = width;
    context.lineCap = "square";
    context.beginPath();
    for (let row = 0; row <= this.rows; row++) {
      for (let column = 0; column <= this.columns; column++) {
        const here = marked(row, column), x = left + column * across, y = row * down;
        if (here !== marked(row - 1, column)) {
          context.moveTo(x, y);
          context.lineTo(x + across, y);
        }
        if (here !== marked(row, column - 1)) {
          context.moveTo(x, y);
          context.lineTo(x, y + down);
        }
      }
    }
    context.stroke();
  }
}

// Drawn when they come into sight, and all of them before printing.
const viewers = new Map(articles.map(article => [article, new Viewer(article)]));
const sight = new IntersectionObserver(entries => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    viewers.get(entry.target).draw();
    sight.unobserve(entry.target);
  }
}, {rootMargin: "400px"});
articles.forEach(article => sight.observe(article));
if (outlines) {
  outlines.addEventListener("change", () => viewers.forEach(viewer => viewer.codes && viewer.draw()));
}
addEventListener("beforeprint", () => {
  document.querySelectorAll("details").forEach(part => part.open = true);
  viewers.forEach(viewer => viewer.codes || viewer.draw());
});
