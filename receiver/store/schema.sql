-- The books, as they are now (version 1). One writer; readers see whole commits.
--
-- Moments are nanoseconds since 1970 UTC, money is pico-USD (1e-12 USD): integers throughout. STRICT, so that nothing is stored as
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

-- Reports ask for a stretch of time. Starts come nearly in order, so this index grows at its end.
CREATE INDEX charges_by_start ON charges (start_unix_nano);

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
