"use strict";
// What fields of a form may hold, depending on others: the same as gateway/rules.py, for the same description.
const Rules = (() => {
  const MINUTES = {m: 1, min: 1, h: 60, d: 1440};
  const MEGABYTES = {M: 1, G: 1024, T: 1024 * 1024};

  // ASCII's blanks alone, as in gateway/siteconfig/words.py.
  const trimmed = (text) => text.replace(/^[ \t\n\r\f\v]+|[ \t\n\r\f\v]+$/g, "");

  function walltime(text) {
    let found = /^([0-9]{1,5})[ \t\n\r\f\v]*(min|m|h|d)$/.exec(text);
    if (found) return Number(found[1]) * MINUTES[found[2]] || null;
    found = /^(?:([0-9]{1,3})-)?([0-9]{1,3}):([0-9]{2})(?::([0-9]{2}))?$/.exec(text);
    if (!found) return null;
    const [days, hours, minutes, seconds] = found.slice(1).map((each) => Number(each || 0));
    return (days * 24 + hours) * 60 + minutes + (seconds ? 1 : 0) || null;
  }

  function memory(text) {
    const found = /^([0-9]{1,7})[ \t\n\r\f\v]*([MGT])(?:i?B)?$/.exec(text);
    return found ? Number(found[1]) * MEGABYTES[found[2]] || null : null;
  }

  function amount(measure, text) {
    switch (measure) {
      case "number": return /^-?[0-9]{1,9}$/.test(text) ? Number(text) : null;
      case "walltime": return walltime(trimmed(text));
      case "memory": return memory(trimmed(text));
      default: return null;
    }
  }

  const isTicked = (text) => !["", "false", "no", "off", "0"].includes(text.toLowerCase());

  function same(measure, one, other) {
    if (measure === "flag") return isTicked(one) === isTicked(other);
    const first = amount(measure, one), second = amount(measure, other);
    return first === null || second === null ? one === other : first === second;
  }

  const measureOf = (measures, name) => Object.hasOwn(measures, name) ? measures[name] : "word";
  const valueOf = (values, name) => Object.hasOwn(values, name) ? values[name] : "";
  const given = (limit) => limit !== null && limit !== undefined;

  function holds(conditions, measures, values) {
    return Object.entries(conditions || {}).every(([name, wanted]) =>
      wanted.some((each) => same(measureOf(measures, name), valueOf(values, name), each)));
  }

  function counts(rule, measures, values) {
    const exempt = Object.keys(rule.unless || {}).length > 0 && holds(rule.unless, measures, values);
    return holds(rule.when, measures, values) && !exempt;
  }

  function breaks(rule, measures, values) {
    const measure = measureOf(measures, rule.field), value = valueOf(values, rule.field);
    if (given(rule.one_of) && !rule.one_of.some((each) => same(measure, value, each))) return true;
    if (given(rule.at_least) && value === "") return true;
    const much = amount(measure, value);
    if (much === null) return false;
    const least = given(rule.at_least) ? amount(measure, rule.at_least) : null;
    const most = given(rule.at_most) ? amount(measure, rule.at_most) : null;
    return (least !== null && much < least) || (most !== null && much > most);
  }

  function extreme(measure, one, other, sign) {
    const first = given(one) ? amount(measure, one) : null;
    const second = given(other) ? amount(measure, other) : null;
    if (second === null) return one;
    return first === null || sign * second > sign * first ? other : one;
  }

  function bounds(name, rules, measures, values) {
    const found = {at_least: null, at_most: null, one_of: null}, measure = measureOf(measures, name);
    for (const rule of rules) {
      if (rule.field !== name || !counts(rule, measures, values)) continue;
      if (given(rule.one_of)) {
        found.one_of = found.one_of === null ? rule.one_of
          : found.one_of.filter((value) => rule.one_of.some((each) => same(measure, value, each)));
      }
      found.at_least = extreme(measure, found.at_least, rule.at_least, 1);
      found.at_most = extreme(measure, found.at_most, rule.at_most, -1);
    }
    return found;
  }

  return {
    amount, same, isTicked, bounds, trimmed,
    broken: (rules, measures, values) =>
      rules.filter((rule) => counts(rule, measures, values) && breaks(rule, measures, values)),
  };
})();
