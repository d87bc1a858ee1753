// What both pages need: the API with the key that was typed in, elements, and how numbers are written.
//
// The key. It is in no URL, no cookie and no form that is sent; it goes out in the Authorization header alone. It is kept in
// sessionStorage: that is this tab's and this origin's, it ends with the tab, and it survives the reload that a phone does when
// its owner comes back from the wallet. A script of somebody else could read a variable as well; the policy of the page lets none in.

const KEY = "spantoll.key";

export class Refused extends Error {
  constructor(status, word, message, retrySeconds) {
    super(message);
    this.status = status;
    this.word = word;
    this.retrySeconds = retrySeconds;
  }
}

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (text) => sessionStorage.setItem(KEY, text),
  forget: () => sessionStorage.removeItem(KEY),
};

function authorization() {
  const text = key.get();
  if (!text) return {};
  // The token of an invoice that was paid without an account (L402) is a credential of its own kind.
  return { Authorization: /^(L402|LSAT|Bearer) /i.test(text) ? text : `Bearer ${text}` };
}

// The answer of the API; raises Refused, or TypeError where nobody answers.
export async function ask(path, { method = "GET", body, signal } = {}) {
  const headers = authorization();
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const answer = await fetch(path, {
    method,
    headers,
    signal,
    body: body === undefined ? undefined : JSON.stringify(body),
    cache: "no-store",
    credentials: "omit",
    redirect: "error",
    referrerPolicy: "no-referrer",
  });
  if (!answer.ok) {
    const said = await answer.json().catch(() => ({}));
    const retry = Number(answer.headers.get("Retry-After")) || 0;
    throw new Refused(answer.status, said.error ?? "", said.message ?? `the daemon answered ${answer.status}`, retry);
  }
  return answer;
}

export const get = async (path, options) => (await ask(path, options)).json();

// Elements ------------------------------------------------------------------------------------------------------------

export const $ = (id) => document.getElementById(id);

// h("a", { href, class: "x", onclick }, "text", element …); what is null or false is left out.
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function text(element, value) {
  if (element.textContent !== value) element.textContent = value;
}

// Rows that stay the same elements from one answer to the next, so that focus and selection stay where they are.
export function rows(parent, items, keyOf, make) {
  const known = (parent.spantollRows ??= new Map());
  const wanted = new Map(items.map((item) => [keyOf(item), item]));
  for (const [id, row] of known) {
    if (wanted.has(id)) continue;
    row.element.remove();
    known.delete(id);
  }
  let before = parent.firstChild;
  for (const [id, item] of wanted) {
    let row = known.get(id);
    if (row === undefined) known.set(id, (row = make(item)));
    row.update(item);
    if (row.element === before) before = before.nextSibling;
    else parent.insertBefore(row.element, before);
  }
}

// A field for the key, shown when the daemon asks for one. `open` is called with each key that was typed.
export function gate({ section, form, field, problem, forget, hidden }, open) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const typed = field.value.trim();
    if (!typed) return;
    key.set(typed);
    field.value = "";
    show(false);
    open();
  });
  forget.addEventListener("click", () => {
    key.forget();
    location.reload();
  });
  const show = (is, message = "") => {
    section.hidden = !is;
    for (const part of hidden) part.hidden = is;
    forget.hidden = is || !key.get();
    text(problem, message);
    problem.hidden = !message;
    if (is) field.focus();
  };
  return {
    ask: () => {
      const tried = key.get() !== "";
      key.forget();
      show(true, tried ? "This key is not known here, or it has expired. Check it, or ask the operator for one." : "");
    },
    settle: () => show(false),
  };
}

// Copies, and says so on the button. Clipboards need https or this machine; elsewhere the text is selected to be copied by hand.
export async function copy(button, value, source) {
  const said = button.dataset.said ?? (button.dataset.said = button.textContent);
  try {
    await navigator.clipboard.writeText(value);
    text(button, "Copied");
  } catch {
    if (source) getSelection().selectAllChildren(source);
    text(button, source ? "Selected: copy it" : "Cannot copy here");
  }
  setTimeout(() => text(button, said), 2000);
}

export function copyable(root = document) {
  for (const button of root.querySelectorAll("[data-copy]")) {
    const source = button.closest("figure").querySelector("code");
    button.hidden = false;
    button.addEventListener("click", () => copy(button, source.textContent, source));
  }
}

// Calls `work` again and again, `seconds` after it ended, while the page is seen; at once when it is seen again.
export function repeat(work, seconds) {
  let timer = 0;
  let busy = false;
  let again = false; // asked for while it was being done
  const run = async () => {
    clearTimeout(timer);
    if (busy) {
      again = true;
      return;
    }
    busy = true;
    try {
      await work();
    } finally {
      busy = false;
      clearTimeout(timer);
      if (!document.hidden) timer = setTimeout(run, again ? 0 : seconds() * 1000);
      again = false;
    }
  };
  document.addEventListener("visibilitychange", () => !document.hidden && run());
  run();
  return run;
}

export const sleep = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

// Numbers -------------------------------------------------------------------------------------------------------------
// Amounts come as exact decimal strings; a JavaScript number is taken only where they are rounded or drawn.

const WHOLE = new Intl.NumberFormat("en");
const COMPACT = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

export const whole = (number) => WHOLE.format(number);
export const compact = (number) => (Math.abs(number) < 100_000 ? WHOLE.format(number) : COMPACT.format(number));
export const plural = (number, one, many = `${one}s`) => `${whole(number)} ${number === 1 ? one : many}`;

// "1234567.5" is "1,234,567.5".
export function sat(decimal) {
  const [before, after] = decimal.split(".");
  const grouped = before.replace(/\B(?=(\d{3})+$)/g, ",").replace("-", "−");
  return after ? `${grouped}.${after}` : grouped;
}

// USD, rounded for people: cents from ten dollars on, hundredths of a cent below.
export function usd(decimal) {
  const number = Number(decimal);
  if (number === 0) return "$0";
  if (number < 0.0001) return "< $0.0001";
  const digits = number >= 10 ? 2 : 4;
  return `$${number.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits })}`;
}

const UNITS = [
  ["year", 31_557_600],
  ["month", 2_629_800],
  ["day", 86_400],
  ["hour", 3_600],
  ["minute", 60],
  ["second", 1],
];

// One unit, as people say it: "3 days".
export function lasting(seconds) {
  for (const [name, size] of UNITS) {
    if (seconds < size && size > 1) continue;
    const number = seconds / size;
    const shown = number < 10 && size > 60 ? Math.round(number * 10) / 10 : Math.round(number);
    return shown > 1000 ? `more than 1,000 ${name}s` : plural(shown, name);
  }
}

const SHORT = { second: "s", minute: "min", hour: "h", day: "d", month: "mo", year: "y" };

export function briefly(seconds) {
  const [number, name] = lasting(seconds).replace("more than ", ">").split(" ");
  return `${number} ${SHORT[name.replace(/s$/, "")]}`;
}

const MOMENT = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit" });

export const moment = (rfc3339) => MOMENT.format(new Date(rfc3339));
