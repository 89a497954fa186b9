// The page is complete without this: it adds sorting, a switch between light and dark, and a mark in the contents.
"use strict";

const KEY = "bench-report-scheme";
const root = document.documentElement;

// A page opened from a file may be refused its storage.
function remembered() {
  try { return localStorage.getItem(KEY); } catch { return null; }
}
function remember(scheme) {
  try { localStorage.setItem(KEY, scheme); } catch { /* for this visit only */ }
}

// At once, before anything is painted.
const scheme = remembered();
if (scheme === "dark" || scheme === "light") root.dataset.scheme = scheme;

function setUpScheme(button) {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.dataset.scheme ? root.dataset.scheme === "dark" : system.matches);
  const show = () => button.setAttribute("aria-pressed", String(dark()));
  button.addEventListener("click", () => {
    root.dataset.scheme = dark() ? "light" : "dark";
    remember(root.dataset.scheme);
    show();
  });
  system.addEventListener("change", show);
  show();
  button.hidden = false;
}

const collator = new Intl.Collator("en", { numeric: true });
const MISSING = new Set(["", "–", "—", "-"]);

// What a row is sorted by: a number where any cell of the column has one, else its text; null where there is nothing.
function keysOf(rows, column) {
  const cells = rows.map((row) => row.cells[column]);
  if (cells.some((cell) => "value" in cell.dataset)) {
    return cells.map((cell) => ("value" in cell.dataset ? Number(cell.dataset.value) : null));
  }
  return cells.map((cell) => (MISSING.has(cell.textContent.trim()) ? null : cell.textContent));
}

function compare(a, b) {
  if (typeof a === "string") return collator.compare(a, b);
  return a < b ? -1 : a > b ? 1 : 0;
}

function sorted(rows, column, sign) {
  const keys = keysOf(rows, column);
  const order = rows.map((_, i) => i).sort((i, j) => {
    if (keys[i] === null || keys[j] === null) return (keys[i] === null) - (keys[j] === null);
    return sign * compare(keys[i], keys[j]);
  });
  return order.map((i) => rows[i]);
}

const NEXT = { none: "ascending", ascending: "descending", descending: "none" };

function setUpSorting(table) {
  const body = table.tBodies[0];
  const original = Array.from(body.rows);
  if (original.length < 2) return;
  const headings = Array.from(table.tHead.rows[0].cells);
  for (const [column, heading] of headings.entries()) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const order = NEXT[heading.getAttribute("aria-sort") ?? "none"];
      for (const other of headings) other.removeAttribute("aria-sort");
      if (order !== "none") heading.setAttribute("aria-sort", order);
      const rows = order === "none" ? original : sorted(original, column, order === "ascending" ? 1 : -1);
      body.append(...rows);
    });
  }
  const hint = document.createElement("span");
  hint.className = "unseen";
  hint.textContent = " (a column is sorted by the button in its heading)";
  table.caption.append(hint);
}

// The section whose heading was passed last is the current one.
function setUpContents(links) {
  const places = links.map((link) => document.getElementById(link.hash.slice(1)));
  const mark = () => {
    const passed = places.filter((place) => place.getBoundingClientRect().top < innerHeight / 3).length;
    links.forEach((link, i) => {
      if (i === passed - 1) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    });
  };
  addEventListener("scroll", mark, { passive: true });
  mark();
}

// The edge of a table or figure fades where more of it is hidden there.
function setUpEdge(region) {
  const mark = () => {
    const hidden = region.scrollWidth - region.clientWidth - region.scrollLeft;
    region.parentElement.classList.toggle("more", hidden > 1);
  };
  region.addEventListener("scroll", mark, { passive: true });
  new ResizeObserver(mark).observe(region);
}

document.addEventListener("DOMContentLoaded", () => {
  setUpScheme(document.getElementById("scheme"));
  document.querySelectorAll("table").forEach(setUpSorting);
  document.querySelectorAll(".scroll").forEach(setUpEdge);
  setUpContents(Array.from(document.querySelectorAll("nav a")));
});
