"use strict";
// Shows, hides and limits the form's fields as its rules say. The gateway checks everything again.
const form = JSON.parse(document.getElementById("form-description").textContent);
const measures = Object.fromEntries(form.fields.map((field) => [field.name, field.measure]));
const part = (field, what) => document.getElementById(`f-${field.name}${what ? "-" + what : ""}`);
//: What a field held before it was hidden, by name.
const kept = new Map();
let told = false;

const standard = (field, partition) =>
  Object.hasOwn(field.defaults, partition) ? field.defaults[partition] : field.default;

function read(field, partition) {
  const element = part(field);
  if (!element) return standard(field, partition);
  return element.type === "checkbox" ? (element.checked ? "true" : "") : Rules.trimmed(element.value);
}

function write(field, value) {
  const element = part(field);
  if (!element) return;
  if (element.type === "checkbox") element.checked = Rules.isTicked(value);
  else element.value = value;
}

function partitionNow() {
  const field = form.fields.find((each) => each.name === "partition");
  return field ? read(field, "") : "";
}

function values() {
  const partition = partitionNow();
  return Object.fromEntries(form.fields.map((field) => [field.name, read(field, partition)]));
}

// What a field with nothing left to choose holds; null if there is something to choose.
function nothing(field, bounds) {
  if (bounds.one_of && bounds.one_of.length === 1 && bounds.one_of[0] === "") return "";
  return field.measure === "number" && field.minimum === 0 && Number(bounds.at_most ?? NaN) === 0 ? "0" : null;
}

function limit(field, bounds) {
  const element = part(field), note = part(field, "limit");
  if (element.tagName === "SELECT") {
    for (const option of element.options) {
      option.disabled = !option.selected && bounds.one_of !== null && !bounds.one_of.includes(option.value);
    }
  } else if (element.type === "number") {
    const most = bounds.at_most ?? field.maximum, least = bounds.at_least ?? field.minimum;
    if (most !== null) element.max = most;
    else element.removeAttribute("max");
    if (least !== null) element.min = least;
  }
  const words = [];
  if (bounds.at_least !== null && Number(bounds.at_least) !== field.minimum) words.push(`At least ${bounds.at_least}.`);
  if (bounds.at_most !== null) words.push(`At most ${bounds.at_most}.`);
  note.textContent = words.join(" ");
  note.hidden = !words.length;
}

function hide(field, value) {
  const place = part(field, "field");
  if (value !== null && !place.hidden) {
    kept.set(field.name, read(field, ""));
    write(field, value);
  } else if (value === null && place.hidden) {
    write(field, kept.get(field.name) ?? field.default);
  }
  place.hidden = value !== null;
}

function fault(field, value, broken) {
  if (value === "") return field.required ? "" : broken;
  const measured = ["number", "walltime", "memory"].includes(field.measure);
  if (measured && Rules.amount(field.measure, value) === null) return field.fault;
  if (field.pattern && !new RegExp(`^(?:${field.pattern})$`).test(value)) return field.fault;
  return broken;
}

function tell(field, words) {
  const element = part(field), place = part(field, "error");
  if (place.textContent !== words) place.textContent = words;
  place.hidden = !words;
  if (!element) return;
  if (words) element.setAttribute("aria-invalid", "true");
  else element.removeAttribute("aria-invalid");
}

function refresh() {
  // Hiding a field changes what it holds, and that may count for another field's rules.
  for (let round = 0; round < 3; round += 1) {
    const now = values();
    for (const field of form.fields.filter((each) => part(each))) {
      const bounds = Rules.bounds(field.name, form.rules, measures, now);
      hide(field, nothing(field, bounds));
      limit(field, bounds);
    }
  }
  const now = values(), broken = Rules.broken(form.rules, measures, now);
  for (const field of form.fields.filter((each) => told && part(each, "error"))) {
    const rule = broken.find((each) => each.field === field.name);
    tell(field, fault(field, now[field.name], rule ? rule.message : ""));
  }
  for (const row of document.querySelectorAll("tr[data-partition]")) {
    if (row.dataset.partition === now.partition) row.setAttribute("aria-current", "true");
    else row.removeAttribute("aria-current");
  }
}

// A field that still holds what it began with takes the new partition's beginning.
let partition = partitionNow();
function follow() {
  const next = partitionNow();
  for (const field of form.fields.filter((each) => Object.hasOwn(each.defaults, next) && part(each))) {
    if (Rules.same(field.measure, read(field, ""), standard(field, partition))) write(field, standard(field, next));
  }
  partition = next;
}

function fill(preset) {
  const named = form.fields.filter((field) => Object.hasOwn(preset.values, field.name));
  for (const field of named.filter((each) => each.name === "partition")) write(field, preset.values.partition);
  follow();
  for (const field of named) {
    kept.set(field.name, preset.values[field.name]);
    write(field, preset.values[field.name]);
    part(field)?.closest("details")?.setAttribute("open", "");
  }
  document.getElementById("filled").textContent = `Filled in: ${preset.title}.`;
}

const page = document.getElementById("form-description").parentElement.querySelector("form[method=post]");
page.addEventListener("input", () => {
  told = true;
  follow();
  refresh();
});
for (const link of page.querySelectorAll("[data-preset]")) {
  link.setAttribute("role", "button");
  link.addEventListener("keydown", (event) => {
    if (event.key === " ") { event.preventDefault(); link.click(); }
  });
  link.addEventListener("click", (event) => {
    event.preventDefault();
    told = true;
    fill(form.presets.find((each) => each.name === link.dataset.preset));
    refresh();
  });
}
refresh();
