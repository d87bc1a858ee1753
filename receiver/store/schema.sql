-- The books, as they are now (version 3). One writer; readers see whole commits.
--
-- Moments are nanoseconds since 1970 UTC, cost is pico-USD (1e-12 USD), credit is millisatoshi: integers throughout. STRICT, so that nothing is stored as
-- something else. What is not told is NULL, never '' or 0.

-- Which steps made this schema. `PRAGMA user_version` holds the highest, for a look without a query.
CREATE TABLE migrations (
    version INTEGER PRIMARY KEY CHECK (version > 0),
    name TEXT NOT NULL,
    applied_unix_nano INTEGER NOT NULL
) STRICT;

-- Single facts about the whole.
--   snapshot_seq     the last journal row that is in `series`
--   running          1 while a process has it open, so 1 at the start says that the last one did not end well
--   backup           of a copy: when it was made (Unix ns); gone once somebody has started on it
--   epoch_seq        of a restored copy: the last journal row that the counters leave out; they began anew behind it
--   epoch_unix_nano  when that was
--   folding          while usage before this moment is folded, and never in a commit that stands
--   folded_until     usage before this moment was folded
CREATE TABLE marks (
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What happened, in the order in which it took effect. Append-only; rows that nobody needs any more are deleted from the front.
-- There is no index on trace or span ids: random keys cost more than the rows. The daemon knows in memory which rows a trace is in.
CREATE TABLE journal (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,                 -- AUTOINCREMENT: a number is never given twice, for debits are named after it
    kind INTEGER NOT NULL CHECK (kind IN (1, 2)),          -- 1 Accepted, 2 Closed of spantoll.journal.v1; another version is another kind
    received_unix_nano INTEGER NOT NULL CHECK (received_unix_nano >= 0),
    account TEXT NOT NULL CHECK (account <> ''),           -- from the credential; part of every key, for ids are chosen by clients
    crc INTEGER NOT NULL CHECK (crc BETWEEN 0 AND 4294967295),  -- CRC-32 of the body: SQLite has no checksums, and a flipped bit is money
    body BLOB NOT NULL
) STRICT;

-- One row a counted model call, written in the transaction of its close row. Never changed; a repriced call is another act.
CREATE TABLE charges (
    id INTEGER PRIMARY KEY,
    close_seq INTEGER NOT NULL CHECK (close_seq > 0),      -- the journal row; not a foreign key, for the journal forgets and charges stay
    closed_unix_nano INTEGER NOT NULL,
    account TEXT NOT NULL CHECK (account <> ''),
    trace_id BLOB NOT NULL CHECK (length(trace_id) = 16),
    span_id BLOB NOT NULL CHECK (length(span_id) = 8),     -- the paying span
    recount INTEGER NOT NULL DEFAULT 0 CHECK (recount >= 0),  -- how often it was charged before: its spans were sent again after the horizon
    merged_span_ids BLOB NOT NULL CHECK (length(merged_span_ids) % 8 = 0),  -- other spans that tell of the same call, 8 bytes each
    start_unix_nano INTEGER NOT NULL,                      -- as the client says, cut to 63 bits
    scope TEXT NOT NULL,
    scope_version TEXT NOT NULL,
    service TEXT NOT NULL,
    operation TEXT,
    -- tokens, as core.usage.reading.Tokens
    input_total INTEGER NOT NULL, uncached INTEGER NOT NULL, cache_read INTEGER NOT NULL,
    cache_write_5m INTEGER NOT NULL, cache_write_1h INTEGER NOT NULL, cache_write_unknown INTEGER NOT NULL,
    output_total INTEGER NOT NULL, reasoning INTEGER NOT NULL,
    audio_in INTEGER NOT NULL, image_in INTEGER NOT NULL, video_in INTEGER NOT NULL, audio_cache_read INTEGER NOT NULL,
    audio_out INTEGER NOT NULL, image_out INTEGER NOT NULL, compaction_in INTEGER NOT NULL, compaction_out INTEGER NOT NULL,
    web_searches INTEGER NOT NULL,
    -- price, as core.prices.priced.Quote
    basis TEXT NOT NULL,
    cost_pusd INTEGER CHECK (cost_pusd >= 0),
    price_source TEXT NOT NULL,
    price_version TEXT NOT NULL,
    priced_model TEXT,
    priced_provider TEXT,
    unpriced_reason TEXT NOT NULL,
    cache_savings_pusd INTEGER NOT NULL,
    cache_premium_pusd INTEGER NOT NULL,
    at_receive_time INTEGER NOT NULL CHECK (at_receive_time IN (0, 1)),
    usage_incomplete INTEGER NOT NULL CHECK (usage_incomplete IN (0, 1)),
    price_doubts TEXT NOT NULL,                            -- separated by blanks
    cache_mode TEXT NOT NULL CHECK (cache_mode IN ('IN', 'EX')),
    cache_evidence TEXT NOT NULL,
    outcome TEXT NOT NULL CHECK (outcome IN ('ok', 'error')),
    doubts TEXT NOT NULL,                                  -- separated by blanks
    -- dimensions
    model TEXT, provider TEXT, agent TEXT, workflow TEXT, task TEXT, feature TEXT, route TEXT,
    user TEXT, session TEXT, tenant TEXT, prompt_version TEXT, tool TEXT,
    CHECK ((cost_pusd IS NULL) = (basis = 'unpriced')),    -- what cannot be priced is unpriced, never 0
    CHECK (input_total = uncached + cache_read + cache_write_5m + cache_write_1h + cache_write_unknown),  -- the parts add up
    UNIQUE (account, trace_id, span_id, recount)           -- a call is charged once; also the way from a trace to its charges
) STRICT;

-- Reports and roll-ups ask for a stretch of time. A call's moment is its start, as its price; where the start was not believable and the
-- price is that of the receive time, its close. Moments come nearly in order, so this index grows at its end.
CREATE INDEX charges_by_moment ON charges (iif(at_receive_time, closed_unix_nano, start_unix_nano));

-- Model calls that could not be counted, and signs that spans were lost before they came: the other half of an honest report.
CREATE TABLE missing (
    id INTEGER PRIMARY KEY,
    close_seq INTEGER NOT NULL CHECK (close_seq > 0),
    account TEXT NOT NULL CHECK (account <> ''),
    trace_id BLOB NOT NULL CHECK (length(trace_id) = 16),
    span_id BLOB NOT NULL CHECK (length(span_id) = 8),
    start_unix_nano INTEGER NOT NULL,
    model TEXT,
    reason TEXT NOT NULL CHECK (reason <> '')
) STRICT;

CREATE INDEX missing_by_start ON missing (start_unix_nano);

-- What single charges came to before they were rolled up (`[privacy] keep_charges`): a row for a UTC day, who and what, without user,
-- session and trace. Amounts are whole USD and the rest in pico-USD, for sums outgrow 64 bits at nine million USD.
CREATE TABLE daily (
    id INTEGER PRIMARY KEY,
    day INTEGER NOT NULL CHECK (day >= 0),                 -- days since 1970, of the charges' moments
    account TEXT NOT NULL CHECK (account <> ''),
    model TEXT, provider TEXT, agent TEXT, workflow TEXT, task TEXT, feature TEXT, route TEXT,
    tenant TEXT, prompt_version TEXT, tool TEXT,
    unpriced_reason TEXT,                                  -- NULL: all of them have a price, else none has
    doubts TEXT NOT NULL,                                  -- separated by blanks, the same for all of them
    calls INTEGER NOT NULL CHECK (calls > 0),
    cost_usd INTEGER NOT NULL CHECK (cost_usd >= 0),
    cost_rest_pusd INTEGER NOT NULL CHECK (cost_rest_pusd BETWEEN 0 AND 999999999999),
    savings_usd INTEGER NOT NULL,                          -- may be negative: a cache read may cost more than input
    savings_rest_pusd INTEGER NOT NULL CHECK (savings_rest_pusd BETWEEN 0 AND 999999999999),
    premium_usd INTEGER NOT NULL,
    premium_rest_pusd INTEGER NOT NULL CHECK (premium_rest_pusd BETWEEN 0 AND 999999999999),
    uncached INTEGER NOT NULL, cache_read INTEGER NOT NULL,
    cache_write_5m INTEGER NOT NULL, cache_write_1h INTEGER NOT NULL, cache_write_unknown INTEGER NOT NULL,
    output_total INTEGER NOT NULL, reasoning INTEGER NOT NULL,
    CHECK (unpriced_reason IS NULL OR (cost_usd = 0 AND cost_rest_pusd = 0))  -- what has no price has no cost
) STRICT;

-- One row for each key, so that what comes late is added to it. NULL is a value like others here, and x'' is none that a text can have.
CREATE UNIQUE INDEX daily_by_key ON daily (
    day, account, ifnull(model, x''), ifnull(provider, x''), ifnull(agent, x''), ifnull(workflow, x''), ifnull(task, x''),
    ifnull(feature, x''), ifnull(route, x''), ifnull(tenant, x''), ifnull(prompt_version, x''), ifnull(tool, x''),
    ifnull(unpriced_reason, x''), doubts
);

-- The same of `missing`.
CREATE TABLE daily_missing (
    day INTEGER NOT NULL CHECK (day >= 0),
    account TEXT NOT NULL CHECK (account <> ''),
    reason TEXT NOT NULL CHECK (reason <> ''),
    spans INTEGER NOT NULL CHECK (spans > 0),
    PRIMARY KEY (day, account, reason)
) STRICT, WITHOUT ROWID;

-- Users who were forgotten, for as long as spans of theirs may still be open: their calls that are closed later name nobody.
CREATE TABLE forgotten (
    account TEXT NOT NULL,                                 -- '' for all
    user TEXT NOT NULL CHECK (user LIKE 'hash:%'),         -- the keyed hash: the name is what must not be kept
    before_unix_nano INTEGER NOT NULL,                     -- calls that began before
    PRIMARY KEY (account, user)
) STRICT, WITHOUT ROWID;

-- Last values of sources whose counts go on growing, written in the transaction of the close that read them.
CREATE TABLE cumulative (
    key TEXT PRIMARY KEY,                                  -- a JSON array of texts
    numbers TEXT NOT NULL,                                 -- a JSON array of integers
    updated_unix_nano INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The metrics at `marks.snapshot_seq`. What came after is added from the journal and the charges, so the counters go on exactly.
CREATE TABLE series (
    family TEXT NOT NULL,
    labels TEXT NOT NULL,                                  -- a JSON array of [name, value]
    numbers TEXT NOT NULL,                                 -- a JSON array of integers: pico-USD outgrow 64 bits at nine million USD
    created_unix_nano INTEGER NOT NULL,                    -- OpenMetrics' created timestamp: it must not move, or everything counts again
    PRIMARY KEY (family, labels)
) STRICT, WITHOUT ROWID;

-- Credit: money that moved from one ledger account to another, once. A ledger account is spelled kind:name (core.ledger.LedgerAccount).
CREATE TABLE transfers (
    number INTEGER PRIMARY KEY,                            -- in the order in which they were made
    id TEXT NOT NULL UNIQUE CHECK (id <> ''),              -- derived from the cause, so the same cause told twice is the same transfer
    debit_account TEXT NOT NULL CHECK (instr(debit_account, ':') > 1),
    credit_account TEXT NOT NULL CHECK (instr(credit_account, ':') > 1),
    amount_msat INTEGER NOT NULL CHECK (amount_msat BETWEEN 1 AND 2100000000000000000),  -- all bitcoin there will be
    code TEXT NOT NULL CHECK (code IN ('usage', 'topup', 'adjust')),
    cause TEXT NOT NULL,                                   -- for people
    unix_nano INTEGER NOT NULL,
    folded INTEGER NOT NULL DEFAULT 1 CHECK (folded > 0),  -- how many it was before old usage was folded (store/fold.py)
    CHECK (debit_account <> credit_account),               -- or nothing would have moved
    CHECK ((code = 'usage') = (credit_account = 'usage:')) -- what spans cost goes to one place, and nothing else goes there
) STRICT;

-- The books are corrected by another transfer, never by a change of one. But old usage is folded, in a transaction that holds its mark:
-- then a transfer takes over what others of its account moved.
CREATE TRIGGER transfers_stay BEFORE DELETE ON transfers WHEN NOT coalesce(
    OLD.code = 'usage' AND OLD.unix_nano < (SELECT value FROM marks WHERE name = 'folding'), 0
) BEGIN SELECT RAISE(ABORT, 'a transfer is for good'); END;
CREATE TRIGGER transfers_do_not_change BEFORE UPDATE ON transfers WHEN NOT coalesce(
    OLD.code = 'usage' AND OLD.unix_nano < (SELECT value FROM marks WHERE name = 'folding')
    AND NEW.number = OLD.number AND NEW.id = OLD.id AND NEW.debit_account = OLD.debit_account AND NEW.credit_account = OLD.credit_account
    AND NEW.code = OLD.code AND NEW.unix_nano = OLD.unix_nano AND NEW.amount_msat > OLD.amount_msat AND NEW.folded > OLD.folded, 0
) BEGIN SELECT RAISE(ABORT, 'a transfer is for good'); END;

-- Statements ask for an account and a stretch of time, audits for sums: both are answered from these alone. Times come nearly in order.
-- On the credit side usage is left out: it is most of the rows, and all of it is of one ledger account that has no statement.
CREATE INDEX transfers_by_debit ON transfers (debit_account, unix_nano, amount_msat);
CREATE INDEX transfers_by_credit ON transfers (credit_account, unix_nano, amount_msat) WHERE code <> 'usage';

-- What the transfers add up to, kept in their transaction: a start must not read millions of them. An audit derives them anew.
CREATE TABLE totals (
    ledger_account TEXT PRIMARY KEY,
    debits_msat INTEGER NOT NULL CHECK (debits_msat >= 0),
    credits_msat INTEGER NOT NULL CHECK (credits_msat >= 0)
) STRICT, WITHOUT ROWID;

-- The totals of a restored copy when its counters began anew: what they leave out.
CREATE TABLE epoch_totals (
    ledger_account TEXT PRIMARY KEY,
    debits_msat INTEGER NOT NULL CHECK (debits_msat >= 0),
    credits_msat INTEGER NOT NULL CHECK (credits_msat >= 0)
) STRICT, WITHOUT ROWID;

-- Invoices that we asked a node for. A settled one is a receipt: SHA-256 of its preimage is its payment hash.
CREATE TABLE topups (
    payment_hash BLOB PRIMARY KEY CHECK (length(payment_hash) = 32),
    account TEXT NOT NULL CHECK (account <> ''),           -- who is credited
    bolt11 TEXT NOT NULL CHECK (bolt11 <> ''),
    amount_msat INTEGER NOT NULL CHECK (amount_msat > 0),  -- asked for; what is credited is what was received
    network TEXT NOT NULL CHECK (network <> ''),           -- play money is not money
    payee TEXT NOT NULL CHECK (payee <> ''),               -- a hash that another node does not know is not unpaid
    created_unix_nano INTEGER NOT NULL,
    expires_unix_nano INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('open', 'settled', 'canceled', 'expired')),
    received_msat INTEGER CHECK (received_msat > 0),
    settled_unix_nano INTEGER,
    preimage BLOB CHECK (length(preimage) = 32),
    CHECK ((state = 'settled') = (received_msat IS NOT NULL)),  -- settled is said with its amount, its moment and its proof,
    CHECK ((state = 'settled') = (settled_unix_nano IS NOT NULL)),  -- and nothing else has them
    CHECK ((state = 'settled') = (preimage IS NOT NULL))
) STRICT;

-- Settled is final.
CREATE TRIGGER settled_stays BEFORE UPDATE ON topups WHEN OLD.state = 'settled' BEGIN SELECT RAISE(ABORT, 'settled is final'); END;

CREATE INDEX topups_of_account ON topups (account, created_unix_nano);
-- What a reconciliation looks up: few, however many receipts there are.
CREATE INDEX topups_unsettled ON topups (expires_unix_nano) WHERE state <> 'settled';

-- Where the stream of a node's settlements was left. A hint: losing it costs lookups, not money.
CREATE TABLE cursors (
    node TEXT PRIMARY KEY CHECK (node <> ''),              -- its public key: a cursor means nothing to another node
    cursor TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- The dev wallet's key and invoices. It is play money, so they may lie here.
CREATE TABLE shelf (
    name TEXT PRIMARY KEY CHECK (name <> ''),
    text TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- What the operator decided for each account; NULL is as the configuration says for everyone. None is ever removed, for its books stay.
CREATE TABLE accounts (
    name TEXT PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 128),
    created_unix_nano INTEGER NOT NULL,
    enabled INTEGER NOT NULL CHECK (enabled IN (0, 1)),
    note TEXT NOT NULL,
    enforce INTEGER CHECK (enforce IN (0, 1)),
    price_per_span_msat INTEGER CHECK (price_per_span_msat >= 0),
    credit_limit_msat INTEGER CHECK (credit_limit_msat >= 0),
    on_exhausted TEXT CHECK (on_exhausted IN ('drop', 'hold', 'accept')),
    max_debt_msat INTEGER CHECK (max_debt_msat >= 0),
    max_in_flight INTEGER CHECK (max_in_flight >= 0),
    max_open_spans INTEGER CHECK (max_open_spans >= 0),
    max_series INTEGER CHECK (max_series >= 0)
) STRICT, WITHOUT ROWID;

-- Keys, by their digest alone: who reads this table can use none of them.
CREATE TABLE keys (
    sha256 BLOB PRIMARY KEY CHECK (length(sha256) = 32),
    account TEXT NOT NULL CHECK (account <> ''),           -- not a foreign key: an account may be of the configuration, without a row
    hint TEXT NOT NULL CHECK (length(hint) <= 16),         -- enough to tell keys apart, never a key
    created_unix_nano INTEGER NOT NULL,
    expires_unix_nano INTEGER                              -- from then on it opens nothing; NULL: for good
) STRICT, WITHOUT ROWID;

-- Payments that are accounts (L402). Unlike a key's digest a root key is a secret: who reads this table and the preimages in `topups`
-- can be each of these accounts, so a copy of the books is to be kept as safe as the daemon. In turn a restored copy opens for all of them.
CREATE TABLE tokens (
    id BLOB PRIMARY KEY CHECK (length(id) = 32),
    account TEXT NOT NULL CHECK (account LIKE 'l402:%'),
    payment_hash BLOB NOT NULL UNIQUE CHECK (length(payment_hash) = 32),  -- of a row in `topups`, which says whether it is paid
    root_key BLOB NOT NULL CHECK (length(root_key) = 32),
    created_unix_nano INTEGER NOT NULL,
    expires_unix_nano INTEGER                              -- from then on it opens nothing; NULL: for good
) STRICT, WITHOUT ROWID;
