// The operator's page. One small question every few seconds (the overview); the reports only when a call was counted since, one after the
// other, and never more often than they are quick: a report of a million charges takes seconds, and the daemon has better things to do.

import { $, Refused, ask, briefly, compact, gate, get, h, key, lasting, moment, plural, repeat, rows, sat, text, usd, whole } from "./common.js";
import { timeline } from "./chart.js";

const POLL_SECONDS = 3;
const REPORT_SECONDS = 5; // between two rounds of reports, at least
const REPORT_SHARE = 10; // and ten times as long as the last round took
const HOUR = 3_600_000;
const TOP = 10;
const TOP_OPEN = 1_000;

const RANGES = {
  day: { by: "hour", title: "the last 24 hours", since: (now) => new Date(Math.floor(now / HOUR) * HOUR - 23 * HOUR) },
  week: { by: "hour", title: "the last 7 days", since: (now) => midnight(now, -6) },
  month: { by: "day", title: "the last 30 days", since: (now) => midnight(now, -29) },
  all: { by: "day", title: "all time", since: () => null },
};
const REASONS = {
  no_usage: "its span shows no usage",
  no_rate: "no price for what it used",
  no_model: "no model is named",
  unknown_model: "the model is not in the price lists",
};

let zone = Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";
let range = RANGES[new URLSearchParams(location.hash.slice(1)).get("range")] ?? RANGES.day;

const door = gate(
  { section: $("gate"), form: $("gate-form"), field: $("key"), problem: $("key-problem"), forget: $("forget"), hidden: [$("page"), $("ranges")] },
  () => poll(),
);

// What is asked, and when ---------------------------------------------------------------------------------------------

let reported = ""; // what the reports on the screen answer: range, hour and number of calls
let nextReports = 0;

async function round() {
  if (!$("gate").hidden) return;
  try {
    const found = await get("/api/v1/overview");
    door.settle();
    showOverview(found);
    trouble("");
    const wanted = `${range.title} ${Math.floor(Date.now() / HOUR)} ${found.calls} ${found.unpriced.calls}`;
    if (wanted !== reported && performance.now() >= nextReports) {
      const began = performance.now();
      await reports();
      reported = wanted;
      const took = performance.now() - began;
      nextReports = performance.now() + Math.max(REPORT_SECONDS * 1000, REPORT_SHARE * took);
    }
  } catch (error) {
    failed(error);
  }
}

function failed(error) {
  if (error instanceof Refused && error.status === 401) {
    door.ask();
    text($("ready"), "A key is needed");
    $("ready").className = "pill";
  } else if (error instanceof Refused && error.word === "busy") {
    nextReports = performance.now() + 1000 * (error.retrySeconds || REPORT_SECONDS);
  } else {
    trouble(error instanceof Refused ? error.message : "The daemon cannot be reached; what is shown is what it last said. This page tries again by itself.");
    text($("ready"), error instanceof Refused ? "Refused" : "Not reached");
    $("ready").className = "pill bad";
  }
}

function trouble(sentence) {
  text($("trouble"), sentence);
  $("trouble").hidden = !sentence;
}

// Reports ---------------------------------------------------------------------------------------------------------------

function reportPath(by, top) {
  const since = range.since(Date.now());
  const query = new URLSearchParams({ by, tz: zone });
  if (since) query.set("since", since.toISOString().replace(/\.\d+Z/, "Z"));
  if (top) query.set("top", String(top));
  return `/api/v1/report?${query}`;
}

async function reports() {
  const asked = range;
  let over;
  try {
    over = await get(reportPath(range.by));
  } catch (error) {
    // A browser may know a time zone that the daemon's machine does not.
    if (!(error instanceof Refused && error.status === 400 && zone !== "UTC" && error.message.includes("time zone"))) throw error;
    zone = "UTC";
    over = await get(reportPath(range.by));
  }
  if (asked !== range) return;
  showTotals(over.totals);
  showLine(over);
  for (const breakdown of breakdowns) {
    await breakdown.refresh();
    if (asked !== range) return;
  }
}

function midnight(now, days) {
  const date = new Date(now);
  return new Date(date.getFullYear(), date.getMonth(), date.getDate() + days);
}

function showTotals(totals) {
  link($("cost"), totals.cost_usd === null ? "unknown" : usd(totals.cost_usd), reportPath("model"));
  const average = totals.average_usd === null ? "" : `, ${usd(totals.average_usd)} each`;
  text($("f-cost"), `Cost, ${range.title}`);
  text($("cost-note"), `${plural(totals.calls, "call")}${average}`);
}

const draw = timeline($("chart"), $("readout"));
const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const DAY = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
const LONG_DAY = new Intl.DateTimeFormat("en-GB", { weekday: "short", day: "numeric", month: "short", year: "numeric" });
const LONG_HOUR = new Intl.DateTimeFormat("en-GB", { weekday: "short", day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });

function startOf(label) {
  if (label.includes("T")) return new Date(label);
  const [year, month, day] = label.split("-").map(Number);
  return new Date(year, month - 1, day);
}

function showLine(report) {
  const by = range.by;
  const found = new Map(report.rows.map((row) => [startOf(row.key[by]).getTime(), row]));
  const now = Date.now();
  const first = range.since(now)?.getTime() ?? Math.min(now, ...found.keys());
  const slots = [];
  for (let at = by === "day" ? midnight(first, 0) : new Date(first); at <= now; at = by === "day" ? midnight(at, 1) : new Date(at.getTime() + HOUR)) {
    const row = found.get(at.getTime());
    slots.push({ start: at, usd: Number(row?.cost_usd ?? 0), exact: row ? row.cost_usd : "0", calls: row?.calls ?? 0, unpriced: row?.unpriced_calls ?? 0 });
  }
  const name = (slot) => (by === "day" ? LONG_DAY : LONG_HOUR).format(slot.start);
  const tick = (slot) => {
    if (by === "day") return DAY.format(slot.start);
    if (range === RANGES.day) return CLOCK.format(slot.start);
    return slot.start.getHours() === 0 ? DAY.format(slot.start) : ""; // an axis of days, however fine its columns
  };
  const dearest = slots.reduce((most, slot) => (slot.usd > most.usd ? slot : most), slots[0]);
  const summary = dearest?.usd ? `By ${by}, ${range.title}. The dearest was ${name(dearest)} with ${usd(dearest.exact)}.` : `By ${by}, ${range.title}. Nothing yet.`;
  draw(slots, { name, tick, summary });
  $("line-link").href = reportPath(by);
  const listed = slots.filter((slot) => slot.calls).reverse();
  rows($("line-table"), listed, (slot) => slot.start.getTime(), () => {
    const cells = [h("td"), h("td", { class: "r" }), h("td", { class: "r" }), h("td", { class: "r" })];
    return {
      element: h("tr", {}, ...cells),
      update(slot) {
        [name(slot), slot.exact === null ? "no price" : usd(slot.exact), whole(slot.calls), slot.unpriced ? whole(slot.unpriced) : ""].forEach((value, at) => text(cells[at], value));
      },
    };
  });
}

// Who spent it: the dearest few, and all of them (up to a thousand) with a field to find one.

class Breakdown {
  constructor(by, title, nobody) {
    this.by = by;
    this.nobody = nobody;
    this.isOpen = false;
    this.report = null;
    const id = `by-${by}`;
    this.link = h("a", { "data-api": true }, "Report");
    this.search = h("input", { type: "search", placeholder: "Find", "aria-label": `Find in ${title.toLowerCase()}`, autocomplete: "off", oninput: () => this.show() });
    this.filter = h("div", { class: "filter", hidden: true }, this.search);
    this.list = h("ul", { class: "bars", "aria-labelledby": id });
    this.none = h("p", { class: "empty", hidden: true });
    this.rest = h("span");
    this.toggle = h("button", { type: "button", class: "quiet", "aria-expanded": "false", onclick: () => this.open(!this.isOpen) });
    this.more = h("div", { class: "more", hidden: true }, this.rest, this.toggle);
    this.element = h("section", { class: "card", "aria-labelledby": id }, h("header", {}, h("h2", { id }, title), this.link), this.filter, this.list, this.none, this.more);
  }

  path() {
    return reportPath(this.by, this.isOpen ? TOP_OPEN : TOP);
  }

  async refresh() {
    this.report = await get(this.path());
    this.show();
  }

  async open(is) {
    this.isOpen = is;
    this.filter.hidden = !is;
    this.search.value = "";
    this.list.classList.toggle("long", is);
    if (is) this.list.setAttribute("tabindex", "0");
    else this.list.removeAttribute("tabindex");
    this.toggle.setAttribute("aria-expanded", String(is));
    try {
      await this.refresh();
    } catch (error) {
      failed(error);
    }
  }

  show() {
    const { rows: found, rest, totals } = this.report;
    const wanted = this.search.value.trim().toLowerCase();
    const shown = wanted ? found.filter((row) => (row.key[this.by] ?? this.nobody).toLowerCase().includes(wanted)) : found;
    const dearest = Math.max(...found.map((row) => Number(row.cost_usd ?? 0)), 0);
    this.link.href = this.path();
    this.dearest = dearest;
    rows(this.list, shown, (row) => row.key[this.by] ?? "", () => this.row());
    const onlyNobody = found.length === 1 && found[0].key[this.by] === null;
    this.none.hidden = shown.length > 0 && !onlyNobody;
    text(this.none, onlyNobody ? `No call names ${article(this.by)}.` : wanted ? "None of this name." : "No calls yet.");
    const keys = found.length + (rest?.keys ?? 0);
    const canOpen = keys > TOP;
    this.more.hidden = !canOpen;
    if (canOpen) {
      text(this.rest, rest ? `${plural(rest.keys, "other")}, together ${rest.cost_usd === null ? "without a price" : usd(rest.cost_usd)}` : `${plural(keys, this.by)}, together ${usd(totals.cost_usd ?? "0")}`);
      text(this.toggle, this.isOpen ? "Show fewer" : "Show all");
    }
  }

  row() {
    const name = h("span", { class: "name" });
    const cost = h("a", { "data-api": true });
    const bar = h("i");
    const track = h("span", { class: "track", "aria-hidden": "true" }, bar);
    const sub = h("span", { class: "sub", hidden: true });
    return {
      element: h("li", {}, name, cost, track, sub),
      update: (row) => {
        const called = row.key[this.by];
        text(name, called ?? this.nobody);
        name.title = called ?? this.nobody;
        name.classList.toggle("nobody", called === null);
        text(cost, row.cost_usd === null ? "no price" : usd(row.cost_usd));
        cost.title = row.cost_usd === null ? "" : `$${row.cost_usd}, ${plural(row.calls, "call")}`;
        cost.href = this.path();
        bar.style.width = this.dearest ? `${(100 * Number(row.cost_usd ?? 0)) / this.dearest}%` : "0";
        bar.hidden = !Number(row.cost_usd ?? 0);
        track.hidden = row.cost_usd === null;
        sub.hidden = !row.unpriced_calls;
        const without = `${whole(row.unpriced_calls)} of ${plural(row.calls, "call")} without a price`;
        text(sub, row.cost_usd === null ? plural(row.calls, "call") : row.unpriced_calls ? without : "");
      },
    };
  }
}

const article = (name) => (/^[aeiou]/.test(name) ? `an ${name}` : `a ${name}`);
const breakdowns = [
  new Breakdown("agent", "By agent", "no agent named"),
  new Breakdown("model", "By model", "no model named"),
  new Breakdown("tenant", "By tenant", "no tenant named"),
];
$("breakdowns").append(...breakdowns.map((each) => each.element));

for (const input of document.querySelectorAll("[name=range]")) {
  input.checked = RANGES[input.value] === range;
  input.addEventListener("change", () => {
    range = RANGES[input.value];
    history.replaceState(null, "", `#range=${input.value}`);
    reported = "";
    nextReports = 0;
    poll();
  });
}

// The overview ----------------------------------------------------------------------------------------------------------

let before = null; // { spans, at }: to tell how many come in a second

function showOverview(found) {
  text($("ready"), found.ready ? "Taking spans" : "Not taking spans");
  $("ready").className = `pill ${found.ready ? "good" : "bad"}`;
  $("ready").title = found.reason;
  text($("version"), found.version);
  const { open, unpriced, spans } = found;

  link($("open"), open.traces ? `≈ ${usd(open.provisional_usd)}` : "$0", metric("window_provisional_cost_usd"));
  text($("open-note"), open.traces ? `${plural(open.traces, "trace")}, ${plural(open.spans, "span")}, oldest ${briefly(open.oldest_seconds)}` : "no trace is open");
  link($("unpriced"), compact(unpriced.calls), metric("unpriced_calls_total"));
  text($("unpriced-note"), unpriced.calls ? "listed below by model" : "nothing is missing a price");
  link($("spans"), compact(spans.accepted), metric("receiver_accepted_spans_total"));
  text($("spans-note"), [rate(spans.accepted), spans.duplicate && `${compact(spans.duplicate)} sent twice`, spans.refused + spans.rejected && `${compact(spans.refused + spans.rejected)} not taken`].filter(Boolean).join(" · "));

  rows($("accounts"), found.accounts.rows, (row) => row.account, accountRow);
  text($("accounts-link"), count(found.accounts));
  rows($("traces"), open.rows, (row) => `${row.account} ${row.trace_id}`, traceRow);
  hideTable("traces", !open.rows.length);
  text($("open-link"), count({ total: open.traces, rows: open.rows }));
  rows($("models"), unpriced.rows, (row) => `${row.account} ${row.model} ${row.reason}`, modelRow);
  hideTable("models", !unpriced.rows.length);
  rows($("sources"), found.sources.rows, (row) => JSON.stringify([row.account, row.service, row.scope, row.version]), sourceRow);
  hideTable("sources", !found.sources.rows.length);
  text($("sources-link"), count(found.sources));
  showHealth(found);
}

const count = ({ total, rows: shown }) => (total > shown.length ? `${shown.length} of ${whole(total)}` : "All");

function hideTable(id, is) {
  $(id).closest(".scroll").hidden = is;
  $(`${id}-none`).hidden = !is;
}

function rate(accepted) {
  const at = performance.now();
  const was = before;
  before = { accepted, at };
  if (was === null) return "";
  const perSecond = (1000 * Math.max(0, accepted - was.accepted)) / (at - was.at);
  return perSecond ? `${perSecond < 10 ? perSecond.toFixed(1) : compact(Math.round(perSecond))} a second` : "none just now";
}

const metric = (name) => `/metrics#:~:text=spantoll_${name}`;

function link(parent, shown, href) {
  const a = parent.querySelector("a") ?? parent.appendChild(clear(parent, h("a", { "data-api": true })));
  text(a, shown);
  if (a.getAttribute("href") !== href) a.setAttribute("href", href);
}

function clear(parent, element) {
  parent.textContent = "";
  return element;
}

function accountRow({ account }) {
  const at = `/api/v1/accounts/${encodeURIComponent(account)}`;
  const state = h("span", { class: "under" });
  const balance = h("a", { "data-api": true, href: `${at}/credit` });
  const spans = h("span", { class: "under" });
  const runway = h("span");
  const cell = h("td", { class: "r" }, runway);
  return {
    element: h("tr", {}, h("td", { class: "name" }, account, state), h("td", { class: "r" }, balance, spans), cell),
    update(row) {
      text(state, row.enabled ? (row.enforce ? "" : "only metered") : "disabled");
      state.hidden = !state.textContent;
      text(balance, sat(row.balance_sat));
      text(spans, row.spans_left === null ? "spans are free" : `${compact(row.spans_left)} spans`);
      const dry = row.enforce && row.runway_seconds === 0;
      text(runway, !row.enforce ? "–" : row.runway_seconds === null ? "idle" : dry ? "used up" : briefly(row.runway_seconds));
      const soon = row.enforce && row.runway_seconds !== null && row.runway_seconds < 86_400;
      runway.className = dry ? "pill bad" : soon ? "pill warn" : "";
    },
  };
}

function traceRow({ trace_id: id, account }) {
  const age = h("span", { class: "under" });
  const spans = h("td", { class: "r" });
  const cost = h("td", { class: "r" });
  return {
    element: h("tr", {}, h("td", { class: "name" }, h("span", { class: "mono", title: id }, `${id.slice(0, 8)}…${id.slice(-4)}`), age), spans, cost),
    update(row) {
      text(age, `${account} · ${briefly(row.age_seconds)} old · closes in ${briefly(row.closes_in_seconds)}`);
      age.title = `waits: ${row.waits_for}`;
      text(spans, whole(row.spans));
      text(cost, Number(row.provisional_pusd) ? `≈ ${usd(row.provisional_usd)}` : "–");
    },
  };
}

function modelRow(made) {
  const calls = h("td", { class: "r" });
  const tokens = h("td", { class: "r" });
  return {
    element: h(
      "tr",
      {},
      h("td", { class: "name" }, made.model, h("span", { class: "under" }, `${REASONS[made.reason] ?? made.reason.replaceAll("_", " ")} · ${made.account}`)),
      calls,
      tokens,
    ),
    update(row) {
      text(calls, whole(row.calls));
      text(tokens, row.reason === "no_usage" ? "–" : compact(row.tokens));
    },
  };
}

function sourceRow(made) {
  const spans = h("td", { class: "r" });
  const calls = h("td", { class: "r" });
  const lacks = h("div");
  const scope = [made.scope, made.version].filter(Boolean).join(" ");
  return {
    element: h("tr", {}, h("td", { class: "name" }, made.service ?? "no service named", h("span", { class: "under" }, [scope, made.account].filter(Boolean).join(" · ")), lacks), spans, calls),
    update(row) {
      text(spans, compact(row.spans));
      text(calls, compact(row.calls));
      const said = [
        row.lacks.usage && `${plural(row.lacks.usage, "call")} without usage: what they cost is unknown`,
        row.lacks.cache_evidence && `${plural(row.lacks.cache_evidence, "call")} with cached tokens whose place in the input is a guess`,
        row.lacks.model_calls && "no model call among its spans yet",
      ].filter(Boolean);
      if (lacks.textContent !== said.join("")) lacks.replaceChildren(...said.map((each) => h("span", { class: "lack" }, each)));
    },
  };
}

function showHealth({ lightning, books, open }) {
  const invoices = Object.entries(lightning.invoices).filter(([, number]) => number).map(([state, number]) => `${whole(number)} ${state}`);
  const facts = [
    {
      name: "Lightning",
      word: lightning.up === null ? "Off" : lightning.up ? "Up" : "Down",
      kind: lightning.up === null ? "" : lightning.up ? "good" : "bad",
      note: lightning.up === null ? "no top-ups are taken" : `${lightning.backend}${lightning.play_money ? ", play money" : ""}`,
      href: metric("lightning_up"),
    },
    { name: "Top-ups", word: "", kind: "", note: invoices.join(", ") || "none yet", href: metric("invoices") },
    {
      name: "Books",
      word: books.balanced === null ? "Not added up yet" : books.balanced ? "Add up" : "Do not add up",
      kind: books.balanced === null ? "" : books.balanced ? "good" : "bad",
      note: books.audited ? moment(books.audited) : "",
      href: "/api/v1/audit",
    },
    { name: "Memory of open traces", word: "", kind: "", note: `${compact(Math.round(open.bytes / 1024))} KiB`, href: metric("window_bytes") },
  ];
  rows($("health"), facts, (fact) => fact.name, (made) => {
    const state = h("span", { class: "pill" });
    const note = h("a", { "data-api": true, class: "num" });
    return {
      element: h("div", {}, h("dt", {}, made.name), h("dd", {}, state, " ", note)),
      update(fact) {
        text(state, fact.word);
        state.hidden = !fact.word;
        state.className = `pill ${fact.kind}`;
        text(note, fact.note || "Audit");
        note.href = fact.href;
      },
    };
  });
}

// Where the listener asks for a key, a link alone would not be let in: so it is asked with the key, and shown here.
document.addEventListener("click", async (event) => {
  const a = event.target.closest?.("a[data-api]");
  if (!a || !key.get() || event.button !== 0) return;
  event.preventDefault();
  try {
    const url = new URL(a.href);
    const answer = await ask(url.pathname + url.search);
    const said = await answer.text();
    const isJson = answer.headers.get("Content-Type")?.includes("json");
    text($("viewer-title"), decodeURIComponent(url.pathname + url.search));
    text($("viewer-text"), isJson ? JSON.stringify(JSON.parse(said), null, 2) : said);
    $("viewer").showModal();
  } catch (error) {
    failed(error);
  }
});

const poll = repeat(round, () => POLL_SECONDS);
