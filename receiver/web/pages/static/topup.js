// The page to pay on: an amount, an invoice, and the moment in which it is paid, seen without a reload.

import { $, Refused, ask, copy, gate, get, h, key, lasting, moment, plural, repeat, rows, sat, sleep, text, whole } from "./common.js";

const CREDIT = "/api/v1/credit";
const CURRENT = "spantoll.topup"; // the payment hash of the invoice on the screen: a phone may load the page anew after the wallet
const WAIT_SECONDS = 50; // one question after a payment; proxies give up on a silent answer at 60 s
const LOOK_SECONDS = 5; // between two looks at the balance
const PAUSE_SECONDS = 2; // before the next question where the daemon did not wait, or nobody answered

const main = $("main");
const least = Number(main.dataset.least);
const most = Number(main.dataset.most);
const states = {
  open: ["Open", ""],
  settled: ["Paid", "good"],
  expired: ["Expired", ""],
  canceled: ["Canceled", ""],
};
const atZero = {
  drop: "spans are refused",
  hold: "spans wait at the sender",
  accept: "spans are taken as debt",
};

let priceMsat = 0;
let watching = null; // AbortController of the question after the payment that is awaited
let settled = null; // the top-up whose receipt is shown
let picture = ""; // object URL of the QR code
let shownBalance = null;

const door = gate(
  { section: $("gate"), form: $("gate-form"), field: $("key"), problem: $("key-problem"), forget: $("forget"), hidden: [$("page")] },
  () => look(),
);

// The account ---------------------------------------------------------------------------------------------------------

let began = false;

async function refresh() {
  if (!$("gate").hidden) return;
  try {
    showBalance(await get(CREDIT));
    if (!began) {
      began = true;
      await refreshPast();
      await resume();
    }
    trouble("");
  } catch (error) {
    failed(error);
  }
}

function failed(error) {
  if (error instanceof Refused && error.status === 401) {
    began = false;
    $("account").textContent = "";
    door.ask();
  } else {
    trouble(error instanceof Refused ? error.message : "The daemon cannot be reached just now; this page tries again by itself.");
  }
}

function trouble(sentence) {
  text($("trouble"), sentence);
  $("trouble").hidden = !sentence;
}

function showBalance(found) {
  priceMsat = found.price_per_span_msat;
  door.settle();
  text($("account"), `Account ${found.account}`);
  const balance = $("balance");
  if (shownBalance !== null && shownBalance !== found.posted_sat) {
    balance.classList.remove("changed");
    void balance.offsetWidth; // starts the animation again
    balance.classList.add("changed");
  }
  shownBalance = found.posted_sat;
  text(balance, sat(found.posted_sat));
  text($("spans"), found.spans_left === null ? "any number: spans are free" : plural(found.spans_left, "span"));
  text($("runway"), runway(found));
  text($("price"), priceMsat === 0 ? "nothing" : `${whole(priceMsat)} msat`);
  text($("policy"), found.enforce ? atZero[found.on_exhausted] : "nothing happens: only metered");
  showPays();
}

function runway(found) {
  if (found.runway_seconds === null) return "nothing is being spent";
  if (found.runway_seconds <= 0) return "used up";
  return `about ${lasting(found.runway_seconds)}`;
}

// The amount ----------------------------------------------------------------------------------------------------------

const field = $("sat");

function showPays() {
  const amount = Number(field.value);
  const fits = Number.isInteger(amount) && amount >= least && amount <= most;
  const bounds = `${whole(least)} to ${whole(most)} sat`;
  text($("pays"), fits && priceMsat ? `Pays ${plural(Math.floor((amount * 1000) / priceMsat), "span")}.` : `${bounds}.`);
  for (const button of document.querySelectorAll(".quick")) {
    button.setAttribute("aria-pressed", String(Number(button.dataset.amount) === amount));
  }
  return fits;
}

function problem(sentence) {
  text($("form-problem"), sentence);
  $("form-problem").hidden = !sentence;
  if (sentence) field.setAttribute("aria-invalid", "true");
  else field.removeAttribute("aria-invalid");
}

field.addEventListener("input", () => {
  problem("");
  showPays();
});
for (const button of document.querySelectorAll(".quick")) {
  button.addEventListener("click", () => {
    field.value = button.dataset.amount;
    problem("");
    showPays();
  });
}

$("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (!showPays()) {
    problem(`Choose a whole number of ${whole(least)} to ${whole(most)} sat.`);
    field.focus();
    return;
  }
  problem("");
  $("create").disabled = true;
  try {
    const answer = await ask(`${CREDIT}/topups`, { method: "POST", body: { amount_sat: Number(field.value) } });
    showInvoice(await answer.json(), true);
    refreshPast();
  } catch (error) {
    if (error instanceof Refused && error.status !== 401) problem(`${error.message[0].toUpperCase()}${error.message.slice(1)}.`);
    else failed(error);
  } finally {
    $("create").disabled = false;
  }
});

// The invoice ---------------------------------------------------------------------------------------------------------

function showCard(name) {
  for (const card of ["form", "pay", "done"]) $(`${card}-card`).hidden = card !== name;
}

async function showInvoice(found, moveFocus) {
  watching?.abort();
  sessionStorage.setItem(CURRENT, found.payment_hash);
  if (found.state === "settled") return showSettled(found, moveFocus);
  showCard("pay");
  text($("pay-amount"), sat(found.amount_sat));
  text($("bolt"), found.bolt11);
  $("open").href = found.uri;
  $("play").hidden = !found.play_money;
  showExpiry(found.state, found.expires_in_seconds);
  const mine = (watching = new AbortController());
  $("qr").removeAttribute("src");
  if (moveFocus) $("pay-title").focus();
  watch(found, mine.signal);
  try {
    const drawn = await (await ask(`${CREDIT}/topups/${found.payment_hash}/qr`, { signal: mine.signal })).blob();
    URL.revokeObjectURL(picture);
    picture = URL.createObjectURL(drawn);
    $("qr").src = picture;
  } catch (error) {
    if (!mine.signal.aborted) failed(error);
  }
}

let countdown = 0;

function showExpiry(state, seconds) {
  clearInterval(countdown);
  const ends = performance.now() + seconds * 1000;
  const show = () => {
    const left = Math.max(0, Math.round((ends - performance.now()) / 1000));
    const over = state !== "open" || left === 0;
    $("expired").hidden = !over;
    $("waiting").hidden = over;
    $("ways").hidden = over;
    $("qr").hidden = over;
    text($("back"), over ? "Get a new invoice" : "Another amount");
    $("back").classList.toggle("quiet", !over);
    const clock = left >= 3600 ? lasting(left) : `${Math.floor(left / 60)}:${String(left % 60).padStart(2, "0")}`;
    text($("wait-text"), `Waiting for the payment · ${clock} left`);
    if (over) clearInterval(countdown);
  };
  show();
  countdown = setInterval(show, 1000);
}

// Asks until the invoice is paid; the daemon answers when that happens. An expired one may still be paid by what is under way.
async function watch(found, signal) {
  while (!signal.aborted) {
    const asked = performance.now();
    try {
      const now = await get(`${CREDIT}/topups/${found.payment_hash}?wait=${WAIT_SECONDS}`, { signal });
      trouble("");
      if (signal.aborted) return;
      if (now.state === "settled") return showSettled(now, $("pay-card").contains(document.activeElement));
      if (now.state === "canceled") return showExpiry(now.state, 0);
      if (now.state !== found.state) showExpiry(now.state, now.expires_in_seconds);
    } catch (error) {
      if (signal.aborted) return;
      failed(error);
      if (error instanceof Refused && error.status === 401) return;
    }
    if (performance.now() - asked < PAUSE_SECONDS * 1000) await sleep(PAUSE_SECONDS);
  }
}

function leaveInvoice() {
  watching?.abort();
  watching = null;
  clearInterval(countdown);
  sessionStorage.removeItem(CURRENT);
  showCard("form");
  field.focus();
}

$("copy").addEventListener("click", () => copy($("copy"), $("bolt").textContent, $("bolt")));
$("back").addEventListener("click", leaveInvoice);
$("again").addEventListener("click", leaveInvoice);

// The page was loaded anew while an invoice was on the screen.
async function resume() {
  const hash = sessionStorage.getItem(CURRENT);
  if (!hash || watching) return;
  try {
    await showInvoice(await get(`${CREDIT}/topups/${encodeURIComponent(hash)}`), false);
  } catch (error) {
    sessionStorage.removeItem(CURRENT);
    if (!(error instanceof Refused) || error.status !== 404) throw error;
  }
}

// The receipt ---------------------------------------------------------------------------------------------------------

function showSettled(found, moveFocus) {
  watching?.abort();
  clearInterval(countdown);
  settled = found;
  showCard("done");
  const sentence = `${sat(found.received_sat)} sat received`;
  text($("done-title"), sentence);
  text($("done-text"), `Credited to account ${found.account}${found.late ? ", although the invoice had expired" : ""}.`);
  $("receipt").replaceChildren(receipt(found));
  text($("said"), sentence);
  if (moveFocus) $("done-title").focus();
  look();
  refreshPast();
}

function receipt(found) {
  const proof = h("dd", { class: "soft" }, "SHA-256 of the preimage is the payment hash: only who paid could know it.");
  const line = (name, value, cls) => h("div", {}, h("dt", {}, name), h("dd", { class: cls }, value));
  prove(found).then((holds) => {
    if (holds === true) text(proof, "✓ SHA-256 of the preimage is the payment hash, as your browser has just computed.");
    if (holds === false) text(proof, "✗ SHA-256 of the preimage is not the payment hash: tell the operator.");
  });
  return h(
    "dl",
    { class: "receipt" },
    line("Paid", moment(found.settled)),
    line("Preimage, the proof of payment", found.preimage, "mono"),
    line("Payment hash", found.payment_hash, "mono"),
    h("div", {}, h("dt", { class: "sr" }, "Check"), proof),
  );
}

// Whether the preimage hashes to the payment hash; null where this browser may not compute that (plain http from afar).
async function prove(found) {
  if (!globalThis.crypto?.subtle) return null;
  const bytes = Uint8Array.from(found.preimage.match(/../g), (pair) => parseInt(pair, 16));
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("") === found.payment_hash;
}

$("save").addEventListener("click", () => {
  const url = URL.createObjectURL(new Blob([JSON.stringify(settled, null, 2)], { type: "application/json" }));
  h("a", { href: url, download: `spantoll-receipt-${settled.payment_hash.slice(0, 12)}.json` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
});

// Past top-ups --------------------------------------------------------------------------------------------------------

async function refreshPast() {
  try {
    const found = await get(`${CREDIT}/topups`);
    rows($("past"), found.topups, (topup) => topup.payment_hash, pastRow);
    $("none").hidden = found.topups.length > 0;
  } catch (error) {
    failed(error);
  }
}

function pastRow() {
  const when = h("span", { class: "soft small" });
  const sum = h("span", { class: "sum" });
  const state = h("span", { class: "pill" });
  const below = h("div");
  let was = "";
  return {
    element: h("li", {}, h("div", { class: "line" }, h("div", {}, sum, when), state), below),
    update(topup) {
      text(when, moment(topup.settled ?? topup.created));
      text(sum, `${sat(topup.state === "settled" ? topup.received_sat : topup.amount_sat)} sat`);
      if (was === topup.state) return;
      was = topup.state;
      const [word, kind] = states[topup.state];
      text(state, word);
      state.className = `pill ${kind}`;
      if (topup.state === "settled") {
        below.replaceChildren(h("details", {}, h("summary", { class: "small" }, "Receipt"), receipt(topup)));
      } else if (topup.state === "open") {
        below.replaceChildren(h("button", { type: "button", class: "quiet", onclick: () => showInvoice(topup, true) }, "Show the invoice"));
      } else {
        below.replaceChildren();
      }
    },
  };
}

// -----------------------------------------------------------------------------------------------------------------------

if (main.dataset.off) {
  $("form-card").hidden = true;
  $("off").hidden = false;
}
showPays();
const look = repeat(refresh, () => LOOK_SECONDS);
