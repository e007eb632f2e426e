/** Random JSON schemas of what is enforced, deep and combined as no one writes them. */

/** @param random uniform in [0, 1) */
export function randomSchema(random: () => number): Record<string, unknown> {
  const whole = (below: number): number => Math.floor(random() * below);
  const pick = <T>(...values: readonly T[]): T => values[whole(values.length)]!;
  const list = <T>(most: number, one: () => T): T[] => Array.from({ length: whole(most + 1) }, one);
  const value = (depth: number): unknown => {
    if (depth === 0 || random() < 0.7) return pick<unknown>(null, true, 0, -1.5, 7, "a", 'q"\\', "\n", "é😀", "1", "");
    const items = list(2, () => value(depth - 1));
    return random() < 0.5 ? items : Object.fromEntries(items.map((item) => [pick("a", "b"), item]));
  };
  const counts = (least: string, most: string): object => {
    const min = whole(4);
    return { ...(random() < 0.4 ? { [least]: min } : {}), ...(random() < 0.4 ? { [most]: min + whole(4) } : {}) };
  };
  const text = (): object => {
    const kind = random();
    if (kind < 0.2) return { pattern: pick("^a+$", "é|b", "^[^a]{2}", '["\\\\\\n]$', "^(\\d-)*x$", "") };
    return kind < 0.35
      ? { format: pick("date", "time", "date-time", "uuid", "ipv4") }
      : counts("minLength", "maxLength");
  };
  const number = (): object => {
    const bound = (random() - 0.5) * 10 ** whole(4);
    const [least, most] = [bound, bound + random() * 20].map((one) => Number(one.toFixed(whole(3))));
    return {
      ...(random() < 0.5 ? { [pick("minimum", "exclusiveMinimum")]: least } : {}),
      ...(random() < 0.5 ? { [pick("maximum", "exclusiveMaximum")]: most } : {}),
    };
  };
  const array = (depth: number): object => ({
    ...(random() < 0.4 ? { prefixItems: [schema(depth - 1), ...list(2, () => schema(depth - 1))] } : {}),
    ...(random() < 0.7 ? { items: random() < 0.2 ? false : schema(depth - 1) } : {}),
    ...counts("minItems", "maxItems"),
  });
  const object = (depth: number): object => {
    const names = ["a", "b", 'q"', "é", "2"].filter(() => random() < 0.5);
    return {
      ...(random() < 0.8 ? { properties: Object.fromEntries(names.map((name) => [name, schema(depth - 1)])) } : {}),
      ...(random() < 0.6 ? { required: [...names, "x"].filter(() => random() < 0.4) } : {}),
      ...(random() < 0.5 ? { additionalProperties: random() < 0.4 ? false : schema(depth - 1) } : {}),
    };
  };
  const keywords = (type: string, depth: number): object => {
    if (type === "string") return text();
    if (type === "integer" || type === "number") return number();
    if (type === "array") return array(depth);
    return type === "object" ? object(depth) : {};
  };
  const schema = (depth: number): unknown => {
    const kind = random();
    if (depth <= 0 || kind < 0.15)
      return pick<unknown>({ type: "boolean" }, { type: "string" }, true, { type: "null" });
    if (kind < 0.3) return random() < 0.5 ? { enum: [value(2), value(2), value(0)] } : { const: value(2) };
    if (kind < 0.4) return { $ref: pick("#/$defs/one", "#/$defs/two") };
    if (kind < 0.5) return { [pick("anyOf", "oneOf")]: [schema(depth - 1), schema(depth - 1)] };
    if (kind < 0.53) return { allOf: [schema(depth - 1)] };
    const types = ["null", "integer", "number", "string", "array", "object"].filter(() => random() < 0.3);
    const used = types.length > 0 ? types : ["object"];
    return Object.assign({ type: used, description: "any" }, ...used.map((type) => keywords(type, depth)));
  };
  return { $defs: { one: schema(2), two: schema(2) }, type: "object", properties: { v: schema(3), w: schema(2) } };
}
