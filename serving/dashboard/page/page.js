"use strict";
// The page: asks for the state every few seconds and says what it got, or in its place why it could not.

const EVERY_MS = 5000, FIRST_VERDICTS = 6;
const $ = (name) => document.getElementById(name);
const root = document.documentElement;
let task = new URLSearchParams(location.search).get("task") || "", state = null, timer = 0, allVerdicts = false, drawn = {};

const short = (digest) => (digest || "").slice(0, 12);
const percent = (share) => (share === null || share === undefined ? "–" : `${(100 * share).toFixed(share > 0 && share < 0.0995 ? 1 : 0)} %`);
const ago = (us) => (us ? `${span(Math.max((state.now_us - us) / 1e6, 0))} ago` : "");
const full = (us) => new Date(us / 1000).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "medium" });
const moment = (us) => el("time", { dateTime: new Date(us / 1000).toISOString(), title: full(us) }, ago(us));
// What stands between backquotes is a command.
const withCode = (text) => text.split("`").map((part, at) => (at % 2 ? el("code", { className: "mono" }, part) : part));
const absent = (what, why) => el("p", { className: "absent" }, el("b", {}, what), ...withCode(why));
const half = (group) => (group.error === null ? "" : `± ${shown(1.96 * group.error)}`);
const plusMinus = (group) => (group.mean === null ? "–" : el("span", {}, shown(group.mean), " ", el("span", { className: "half" }, half(group))));
const count = (n, one, many) => `${Math.round(n).toLocaleString("en")} ${n === 1 ? one : many}`;
const signed = (value) => (value === null ? "–" : `${value < 0 ? "−" : "+"}${shown(Math.abs(value))}`);

function baseline() {
  const { standing, rows } = state;
  return standing.absent || rows.absent ? null : rows.policies.find((group) => group.name === standing.baseline) || null;
}

/** The group of rows that the champion itself decided. */
function own() {
  const { standing, rows } = state;
  return standing.absent || rows.absent ? null : rows.policies.find((group) => group.name === standing.champion.digest) || null;
}

function showPulse() {
  const { rows, server } = state, age = rows.absent ? Infinity : (state.now_us - rows.until_us) / 1e6;
  const live = age < 60 || (!server.absent && server.now.per_s > 0);
  $("pulse").dataset.is = live ? "live" : "still";
  $("pulse-text").textContent = live ? "Live" : rows.absent ? "No decisions to show yet" : `At rest: the newest decision is ${span(age)} old`;
}

function showTasks() {
  const names = state.tasks.length ? state.tasks : [state.task || "none"];
  const select = $("task"), now = [...select.options].map((option) => option.value).join("\n");
  if (now !== names.join("\n")) select.replaceChildren(...names.map((name) => el("option", { value: name }, name)));
  select.value = state.task || names[0];
  $("json").href = `api/state.json?task=${encodeURIComponent(state.task)}`;
  document.title = `${state.task || "no task"} · slateloop`;
}

function showChampion() {
  const { standing } = state;
  if (standing.absent) return $("champion").replaceChildren(absent("No champion to show.", standing.absent));
  const { champion } = standing, mine = own(), first = baseline();
  const facts = [
    ["Since", moment(standing.since_us)],
    ["Chosen by", champion.is_baseline ? "the beginning: it has learned nothing" : standing.verdict ? el("span", {}, "verdict ", el("span", { className: "mono" }, short(standing.verdict).slice(0, 8))) : "no verdict"],
    ["Learned from", champion.rows ? `${champion.rows.toLocaleString("en")} rows` : "no rows"],
    ["Its own reward", mine ? plusMinus(mine) : "no closed rows yet"],
    ["First champion's", first ? plusMinus(first) : "no rows in sight"],
    ["Moves so far", String(standing.moves)],
  ];
  const notices = [];
  if (standing.kill_switch) notices.push(el("p", { className: "notice red", role: "alert" }, "The kill switch is on: the baseline decides, not the champion."));
  if (standing.staged) notices.push(el("p", { className: "notice blue" }, `A promotion is staged: ${standing.staged.policy} ${short(standing.staged.digest)} decides for ${percent(standing.staged.share)} of the units.`));
  $("champion").replaceChildren(
    el("p", { className: "name" }, champion.policy),
    el("p", { className: "digest mono", title: champion.digest }, short(champion.digest)),
    el("dl", { className: "facts" }, ...facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value)))),
    ...notices,
  );
}

function showRollback() {
  const { standing } = state;
  if (standing.absent) return $("rollback").replaceChildren(absent("No way back to show.", "It is known when the store is."));
  const { command, does } = standing.rollback, parts = [el("p", {}, does)];
  if (command) {
    const button = el("button", { type: "button" }, "Copy");
    button.setAttribute("aria-label", "Copy the rollback command");
    button.addEventListener("click", () => copy(button, command));
    parts.push(el("div", { className: "command" }, el("code", {}, command), button));
    parts.push(el("p", { className: "quiet small" }, "Say why in place of WHY: it stands in the audit log. This page moves nothing itself."));
  }
  // Selected text and focus would be lost with the old elements.
  if (drawn.rollback !== command + does) $("rollback").replaceChildren(...parts);
  drawn.rollback = command + does;
}

async function copy(button, text) {
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(button.previousElementSibling);
    button.textContent = "Selected";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
}

function tile(title, value, unit, under) {
  return el("div", { className: "tile" }, el("h2", {}, title), el("p", { className: "big" }, value, unit ? el("small", {}, unit) : null), el("p", { className: "under" }, under));
}

function showTiles() {
  $("tiles").replaceChildren(trafficTile(), latencyTile(), rewardTile(), lagTile(), soundTile());
}

function trafficTile() {
  const { server, rows, run } = state;
  if (!server.absent) return tile("Decisions", shown(server.now.per_s, 1), "a second", `${server.now.decisions.toLocaleString("en")} since the server's start`);
  if (rows.absent) return tile("Decisions", "–", "", "neither a server nor rows to count");
  const seconds = Math.max((rows.until_us - rows.from_us) / 1e6, 1);
  return tile("Decisions", shown(run.decisions_per_s || rows.decisions / seconds, 1), "a second", `${rows.decisions.toLocaleString("en")} rows in ${span(seconds)}`);
}

function latencyTile() {
  const { server, run } = state;
  if (!server.absent) return server.now.p99_ms === null ? tile("Latency, 99 of 100", "–", "", "no calls yet")
    : tile("Latency, 99 of 100", shown(server.now.p99_ms, 1), "ms", `median ${shown(server.now.p50_ms, 1)} ms, in the server`);
  if (run.select_p99_ms) return tile("Latency, 99 of 100", shown(run.select_p99_ms, 1), "ms", `median ${shown(run.select_p50_ms, 1)} ms, as the demo's callers saw it`);
  return tile("Latency, 99 of 100", "–", "", "needs --metrics of a server");
}

function rewardTile() {
  const { rows } = state, first = baseline();
  if (rows.absent || rows.recent.mean === null) return tile("Reward a decision", "–", "", "no closed rows yet");
  return tile("Reward a decision, newest", shown(rows.recent.mean), half(rows.recent), againstFirst(rows.recent, first));
}

/** The newest reward against the first champion's: a share where it is more than chance. */
function againstFirst(recent, first) {
  if (!first || first.mean === null) return `the newest ${recent.n.toLocaleString("en")} decisions`;
  const gain = recent.mean - first.mean, chance = 1.96 * Math.hypot(recent.error || 0, first.error || 0);
  if (Math.abs(gain) <= chance) return "no different from the first champion";
  const size = first.mean > 0 ? percent(Math.abs(gain) / first.mean) : shown(Math.abs(gain));
  return el("span", {}, el("span", { className: gain > 0 ? "up" : "down" }, `${gain > 0 ? "▲" : "▼"} ${size}`), gain > 0 ? " above the first champion" : " below the first champion");
}

function lagTile() {
  const { joiner, rows } = state;
  if (!joiner.absent) return tile("Rows are behind", span(joiner.behind_s), "", `a reward is in after ${span(joiner.freshness_s["0.5"])} (median)`);
  const lags = rows.absent ? [] : rows.bins.lag_s.filter((lag) => lag !== null);
  if (!lags.length) return tile("Rows are behind", "–", "", "needs --joiner, or rows");
  return tile("A row is made after", span(lags[lags.length - 1]), "", "from the decision, windows included");
}

function soundTile() {
  const { server, rows } = state, faults = [];
  if (!server.absent) {
    if (server.now.log_blocked) faults.push("the log takes nothing");
    if (server.now.fallbacks) faults.push(count(server.now.fallbacks, "unlogged fallback", "unlogged fallbacks"));
    if (server.now.snapshot_failures) faults.push(count(server.now.snapshot_failures, "snapshot not served", "snapshots not served"));
  }
  if (!rows.absent) {
    if (rows.counts.fallback) faults.push(count(rows.counts.fallback, "row by a fallback", "rows by a fallback"));
    if (rows.counts.overridden) faults.push(count(rows.counts.overridden, "slate shown otherwise", "slates shown otherwise"));
  }
  if (rows.absent && server.absent) return tile("Out of the ordinary", "–", "", "nothing to look at");
  if (!faults.length) return tile("Out of the ordinary", "nothing", "", "no fallbacks, no slates shown otherwise");
  return tile("Out of the ordinary", String(faults.length), faults.length === 1 ? "thing" : "things", faults.join(", "));
}

/** A figure's heading with its legend, its picture, and its table. */
function figure(holder, { title, keys = [], note = "", picture, table }) {
  const legend = el("div", { className: "legend" }, ...keys.map(([colour, name, dash]) => el("span", { className: `key ${colour}${dash ? " dash" : ""}` }, el("i", { "aria-hidden": "true" }), el("span", {}, name))));
  const plot = el("div", { className: "plot" }), open = holder.querySelector("details")?.open || false;
  holder.replaceChildren(el("figcaption", {}, el("h2", {}, title), legend), plot, el("p", { className: "quiet small" }, note), tableOf(table, open));
  picture(plot);
}

function tableOf({ heads, rows }, open) {
  const details = el("details", { open }, el("summary", {}, "As a table"));
  const fill = () => {
    if (!details.open || details.querySelector("table")) return;
    const head = el("tr", {}, ...heads.map((name, at) => el("th", { scope: "col", className: at ? "number" : "" }, name)));
    const body = rows().map((cells) => el("tr", {}, ...cells.map((cell, at) => el("td", { className: at ? "number" : "" }, cell))));
    details.append(el("div", { className: "scroll", tabindex: 0, role: "region", "aria-label": "Figures of the picture" }, el("table", {}, el("thead", {}, head), el("tbody", {}, ...body))));
  };
  details.addEventListener("toggle", fill);
  fill();
  return details;
}

function nothing(holder, title, why) {
  holder.replaceChildren(el("figcaption", {}, el("h2", {}, title)), absent("Nothing to draw.", why));
}

function showReward() {
  const { rows, standing } = state, holder = $("reward"), title = "Reward over time";
  if (rows.absent) return nothing(holder, title, rows.absent);
  const { bins } = rows, first = baseline(), marks = standing.absent ? [] : standing.promoted_us;
  const keys = [["blue", "mean of a decision, with its 95 % band"]];
  if (marks.some((time) => time >= rows.from_us && time <= rows.until_us)) keys.push(["green", "promotion", true]);
  if (first) keys.push(["quiet", "first champion", true]);
  figure(holder, {
    title, keys,
    note: `${rows.reward.n.toLocaleString("en")} closed decisions, in steps of ${span(bins.width_s)}${rows.counts.open ? `; ${rows.counts.open.toLocaleString("en")} are open still` : ""}.`,
    picture: (plot) => lineChart(plot, {
      time_us: bins.time_us, marks, height: 240, level: first && { name: "first champion", value: first.mean },
      lines: [{ name: "reward", colour: "blue", values: bins.reward, error: bins.error.map((error) => error && 1.96 * error) }],
      label: `Reward of a decision over time: ${shown(firstOf(bins.reward))} at first, ${shown(lastOf(bins.reward))} at last.`,
    }),
    table: { heads: ["Time", "Reward", "95 % ±"], rows: () => bins.time_us.map((time, at) => [full(time), shown(bins.reward[at]), shown(bins.error[at] === null ? null : 1.96 * bins.error[at])]) },
  });
}

const firstOf = (values) => values.find((value) => value !== null) ?? null;
const lastOf = (values) => firstOf([...values].reverse());

function showTraffic() {
  const { rows, server } = state, holder = $("traffic"), title = "Traffic";
  const counted = !server.absent && server.series.time_us.length > 1;
  if (!counted && rows.absent) return nothing(holder, title, server.absent ? `${server.absent} ${rows.absent}` : "The first figures come with the second look, in five seconds.");
  const { time_us, per_s } = counted ? server.series : rows.bins;
  figure(holder, {
    title, keys: [["blue", "decisions a second"]],
    note: counted ? "Counted by the server since this page's own server looks at it." : "Counted in the rows: what the joiner has made of the log.",
    picture: (plot) => lineChart(plot, { time_us, lines: [{ name: "a second", colour: "blue", values: per_s }], label: `Decisions a second over time, ${shown(lastOf(per_s))} at last.` }),
    table: { heads: ["Time", "Decisions a second"], rows: () => time_us.map((time, at) => [full(time), shown(per_s[at])]) },
  });
}

function showLatency() {
  const { server, run } = state, holder = $("latency"), title = "Latency of Select";
  if (server.absent) {
    const seen = run.select_p50_ms ? `The demo's callers saw a median of ${shown(run.select_p50_ms, 1)} ms, and 99 of 100 below ${shown(run.select_p99_ms, 1)} ms. ` : "";
    return nothing(holder, title, seen + server.absent);
  }
  const { time_us, p50_ms, p99_ms } = server.series;
  if (time_us.length < 2) return nothing(holder, title, "The first figures come with the next looks, in ten seconds.");
  figure(holder, {
    title, keys: [["blue", "median"], ["violet", "99 of 100 are faster"]],
    note: "Milliseconds from the arrival of a call to its answer, in the server.",
    picture: (plot) => lineChart(plot, {
      time_us, lines: [{ name: "99 of 100", colour: "violet", values: p99_ms }, { name: "median", colour: "blue", values: p50_ms }],
      label: `Latency over time: median ${shown(lastOf(p50_ms))} ms, 99th percentile ${shown(lastOf(p99_ms))} ms at last.`,
    }),
    table: { heads: ["Time", "Median, ms", "99th percentile, ms"], rows: () => time_us.map((time, at) => [full(time), shown(p50_ms[at]), shown(p99_ms[at])]) },
  });
}

function showLag() {
  const { rows, joiner } = state, holder = $("lag"), title = "Lag of the rows";
  if (rows.absent) return nothing(holder, title, rows.absent);
  const { bins } = rows;
  if (bins.lag_s.every((lag) => lag === null)) return nothing(holder, title, "No row says when it was made: they were all made when their sources had ended.");
  const now = joiner.absent ? "" : ` The joiner is ${span(joiner.behind_s)} behind now.`;
  figure(holder, {
    title, keys: [["blue", "from decision to row"]],
    note: `In the time of events: the task's windows, and what the sources were late.${now}`,
    picture: (plot) => lineChart(plot, { time_us: bins.time_us, lines: [{ name: "after", colour: "blue", values: bins.lag_s }], say: span, label: `Time from decision to row: ${span(lastOf(bins.lag_s))} at last.` }),
    table: { heads: ["Time", "After"], rows: () => bins.time_us.map((time, at) => [full(time), span(bins.lag_s[at])]) },
  });
}

function showPropensities() {
  const { rows } = state, holder = $("propensities"), title = "Propensities";
  if (rows.absent || !rows.propensities) return nothing(holder, title, rows.absent || "No slot was drawn by a policy yet.");
  const { edges, counts, smallest } = rows.propensities, total = counts.reduce((sum, count) => sum + count, 0);
  figure(holder, {
    title, keys: [["blue", "share of slots"]],
    note: `The probability with which each shown item was drawn, as logged; the smallest is ${shown(smallest)}, a weight of ${shown(1 / smallest, 0)}.`,
    picture: (plot) => histogram(plot, { edges, counts, label: `Histogram of ${total.toLocaleString("en")} logged propensities, from ${shown(smallest)} to 1.` }),
    table: { heads: ["From", "To", "Slots"], rows: () => counts.map((count, at) => [shown(edges[at]), shown(edges[at + 1]), count.toLocaleString("en")]) },
  });
}

function bar(share) {
  const inner = el("i"), outer = el("span", { className: "share", "aria-hidden": "true" }, inner);
  inner.style.width = `${Math.max(100 * share, share > 0 ? 1 : 0)}%`;
  return el("div", { className: "part" }, el("span", {}, percent(share)), outer);
}

function plainTable(heads, rows) {
  const cell = (value, at) => el("td", { className: at >= 2 ? "number" : "" }, value);
  return el("div", { className: "scroll" }, el("table", {},
    el("thead", {}, el("tr", {}, ...heads.map((name, at) => el("th", { scope: "col", className: at >= 2 ? "number" : "" }, name)))),
    el("tbody", {}, ...rows.map((cells) => el("tr", {}, ...cells.map(cell))))));
}

function showArms() {
  const { rows, standing } = state, holder = $("arms"), title = el("h2", {}, "Arms and policies");
  if (rows.absent) return holder.replaceChildren(title, absent("Nothing to compare.", rows.absent));
  const role = (digest) => (standing.absent ? "" : digest === standing.champion.digest ? "champion" : standing.staged && digest === standing.staged.digest ? "staged" : digest === standing.baseline ? "first" : "");
  const policies = rows.policies.slice(0, 8).map((group) => [
    el("div", {}, group.policy, el("div", { className: "quiet small" }, el("span", { className: "mono" }, short(group.name).slice(0, 8)), role(group.name) ? ` · ${role(group.name)}` : "")),
    bar(group.share), group.n.toLocaleString("en"), plusMinus(group),
  ]);
  const arms = rows.arms.map((group) => [group.name || "none", bar(group.share), group.n.toLocaleString("en"), plusMinus(group)]);
  holder.replaceChildren(
    title,
    plainTable(["Arm", "Share", "Decisions", "Reward"], arms),
    plainTable(["Policy", "Share", "Decisions", "Reward"], policies),
    el("p", { className: "quiet small" }, rows.policies.length > 8 ? `And ${rows.policies.length - 8} that decided less. ` : "", "Means with 95 % of chance. Policies served at different times: only arms compare like with like."),
  );
}

function showActions() {
  const { rows } = state, holder = $("actions"), title = el("h2", {}, "What was shown");
  if (rows.absent) return holder.replaceChildren(title, absent("Nothing was shown.", rows.absent));
  const { actions } = rows;
  if (!actions.seen) return holder.replaceChildren(title, absent("Nothing was seen yet.", "Actions appear here when impressions say that they were seen."));
  const rest = actions.rest > 0 ? ` The other ${actions.actions - actions.top.length} share ${percent(actions.rest)}.` : "";
  holder.replaceChildren(
    title,
    plainTable(["Action", "Share", "Seen", "Reward"], actions.top.map((action) => [el("span", { className: "who" }, action.name), bar(action.share), action.n.toLocaleString("en"), shown(action.mean)])),
    el("p", { className: "quiet small" }, `Of ${actions.seen.toLocaleString("en")} slots that were seen; reward is a seen slot's.${rest}`),
  );
}

/** The difference to the champion with its interval, on a line that all verdicts share. */
function gap(verdict, reach) {
  if (!verdict.difference) return el("div", { className: "gap" }, verdict.decision === "veto" ? "Not shown: a veto's estimate must not be believed." : "No estimate.");
  const [value, lower, upper] = verdict.difference, width = 260, x = (at) => width / 2 + (Math.max(Math.min(at / reach, 1), -1)) * (width / 2 - 8);
  const svg = draw("svg", { viewBox: `0 0 ${width} 26`, role: "img", "aria-label": `Difference to the champion ${signed(value)}, from ${signed(lower)} to ${signed(upper)}` });
  const ends = [lower === null ? -reach : lower, upper === null ? reach : upper];
  svg.append(draw("line", { class: "zero", x1: x(0), x2: x(0), y1: 1, y2: 25 }), draw("line", { class: "span", x1: x(ends[0]), x2: x(ends[1]), y1: 13, y2: 13 }), draw("circle", { class: "point", cx: x(value), cy: 13, r: 4.5 }));
  return el("div", { className: `gap ${{ promote: "green", veto: "red" }[verdict.decision] || "amber"}` }, svg, el("span", { className: "quiet" }, `${verdict.metric} ${signed(value)}, between ${signed(lower)} and ${signed(upper)}`));
}

function contest(verdict, reach) {
  const word = { promote: verdict.next_share < 1 ? `Step to ${percent(verdict.next_share)}` : "Promoted", hold: "Held", veto: "Vetoed", wait: "No verdict yet" }[verdict.decision] || verdict.decision;
  const about = [verdict.label || verdict.kind, verdict.rows ? `${verdict.rows.toLocaleString("en")} rows` : ""].filter(Boolean).join(" · ");
  return el("li", { className: "contest" },
    el("div", { className: "verdict" }, el("span", { className: `chip ${verdict.decision}` }, word), el("p", { className: "when" }, verdict.decided_us ? moment(verdict.decided_us) : "")),
    el("div", {}, el("p", { className: "who" }, el("span", { className: "mono", title: verdict.digest }, short(verdict.digest)), about ? ` · ${about}` : ""),
      el("p", { className: "why" }, verdict.reasons[0] || "No reason is kept."),
      verdict.came ? el("p", { className: `came ${verdict.came.wrong ? "red" : verdict.came.realised[0] === null ? "quiet" : "green"}` }, `Afterwards: ${verdict.came.said}`) : null),
    gap(verdict, reach));
}

function showVerdicts() {
  const { standing } = state;
  if (standing.absent) return $("verdicts").replaceChildren(absent("No verdicts to show.", standing.absent));
  const { verdicts, verdict_counts: counts } = standing;
  $("verdict-counts").textContent = `${counts.promote} promoted · ${counts.hold} held · ${counts.veto} vetoed`;
  const waiting = standing.waiting.map((item) => el("li", { className: "contest" },
    el("div", { className: "verdict" }, el("span", { className: "chip waiting" }, "Waits"), el("p", { className: "when" }, moment(item.published_us))),
    el("div", {}, el("p", { className: "who" }, `${item.policy} `, el("span", { className: "mono", title: item.digest }, short(item.digest))), el("p", { className: "why" }, `${item.label || item.kind} · learned from ${item.rows.toLocaleString("en")} rows`)),
    el("div", { className: "gap" }, "The gate has not spoken yet.")));
  if (!verdicts.length && !waiting.length) return $("verdicts").replaceChildren(absent("No challenger yet.", "`bandits learn` publishes one when there are rows enough, and `ope gate --watch` judges it."));
  const reach = Math.max(...verdicts.flatMap((verdict) => (verdict.difference || []).filter((value) => value !== null).map(Math.abs)), 1e-9);
  const kept = allVerdicts ? verdicts : verdicts.slice(0, FIRST_VERDICTS);
  const more = verdicts.length > FIRST_VERDICTS && el("button", { type: "button", className: "more" }, allVerdicts ? "Show fewer" : `Show all ${verdicts.length}`);
  if (more) more.addEventListener("click", () => { allVerdicts = !allVerdicts; showVerdicts(); $("verdicts").querySelector(".more").focus(); });
  $("verdicts").replaceChildren(el("ol", {}, ...waiting, ...kept.map((verdict) => contest(verdict, reach))), ...(more ? [more] : []));
}

function showHistory() {
  const { standing } = state;
  if (standing.absent) return $("history").replaceChildren(absent("No moves to show.", standing.absent));
  const words = {
    begin: (move) => ["First champion ", mono(move.digest)],
    promote: (move) => ["Promoted ", mono(move.digest), " by verdict ", mono(move.quoted, 8)],
    stage: (move) => [`Step to ${percent(move.share)} for `, mono(move.challenger), " by verdict ", mono(move.quoted, 8)],
    rollback: (move) => ["Rolled back to ", mono(move.digest), `: ${move.reason || "no reason given"}`],
    kill_switch_on: (move) => [`Kill switch on: ${move.reason || "no reason given"}`],
    kill_switch_off: (move) => [`Kill switch off: ${move.reason || "no reason given"}`],
  };
  $("history").replaceChildren(el("ol", { className: "history" }, ...standing.history.map((move) => el("li", {},
    el("span", { className: "quiet" }, move.time_us ? moment(move.time_us) : ""),
    el("span", {}, ...words[move.action](move), el("span", { className: "quiet" }, move.actor ? ` · ${move.actor}` : ""))))));
}

function mono(digest, digits = 12) {
  return el("span", { className: "mono", title: digest || "" }, (digest || "?").slice(0, digits));
}

const PICTURES = [showReward, showTraffic, showLatency, showLag, showPropensities];
const PARTS = [showTasks, showPulse, showChampion, showRollback, showTiles, showArms, showActions, showVerdicts, showHistory];

function show() {
  PARTS.forEach((part) => part());
  // A picture under the pointer or the keys is left alone until it is let go.
  if (!document.querySelector(".plot svg:hover, .plot svg:focus-visible")) PICTURES.forEach((part) => part());
}

async function look() {
  clearTimeout(timer);
  try {
    const answer = await fetch(`api/state.json?task=${encodeURIComponent(task)}`);
    if (!answer.ok) throw new Error(`answered ${answer.status}`);
    state = await answer.json();
    task = state.task;
    show();
    root.dataset.ready = String(Math.round(performance.now()));
  } catch (error) {
    $("pulse").dataset.is = "lost";
    $("pulse-text").textContent = `No answer from the dashboard's server; what you see is old (${error.message})`;
  }
  timer = setTimeout(look, document.hidden ? 6 * EVERY_MS : EVERY_MS);
}

$("task").addEventListener("change", (event) => {
  task = event.target.value;
  allVerdicts = false;
  history.replaceState(null, "", `?task=${encodeURIComponent(task)}`);
  look();
});
document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
let width = innerWidth, resized = 0;
addEventListener("resize", () => {
  if (innerWidth === width || !state) return;
  width = innerWidth;
  clearTimeout(resized);
  resized = setTimeout(() => PICTURES.forEach((part) => part()), 120);
});
look();
