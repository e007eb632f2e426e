/**
 * JSON Schema (2020-12, a subset) drawn as a network. The promise: whatever is read is valid by the schema. So a
 * keyword that is not enforced is refused, with a pointer to it, and never ignored. What the schema allows and the
 * network does not read (other orders of properties, other spaces, exponents) only makes answers narrower.
 */
import { Network, type Rule } from "../automaton/network.ts";
import { leftRecursive } from "../automaton/beginnings.ts";
import { PrefixdError } from "../../errors.ts";
import { drawArray } from "./arrays.ts";
import { escaped, failInvalid, failUnsupported } from "./errors.ts";
import { BY_TYPE, HEADS, isAnnotation, KEYWORDS, TYPES, type Head, type JsonType } from "./keywords.ts";
import { drawValues, isExact, isOf } from "./literals.ts";
import { boundsOf, drawNumbers, EVERYTHING } from "./numbers.ts";
import { drawObject } from "./objects.ts";
import { excludeEachOther } from "./one-of.ts";
import type { DrawPart } from "./part.ts";
import { resolve, type Place } from "./pointers.ts";
import { drawString } from "./strings.ts";

type SchemaObject = Readonly<Record<string, unknown>>;

/** @throws PrefixdError constraint_invalid, constraint_unsupported, constraint_too_complex */
export function compileSchema(schema: unknown, maxStates: number): { net: Network; root: Rule } {
  const compiler = new Compiler(schema, new Network(maxStates));
  return { net: compiler.net, root: compiler.compile() };
}

class Compiler {
  readonly net: Network;
  readonly #root: unknown;
  readonly #rules = new Map<string, Rule>();
  /** By pointer of a schema that is a `$ref`: what that leads to at last. */
  readonly #refs = new Map<string, { readonly schema: unknown }>();
  /** Rules that are called and not drawn yet. */
  readonly #undrawn: (Place & { readonly rule: Rule })[] = [];

  constructor(root: unknown, net: Network) {
    this.#root = root;
    this.net = net;
  }

  compile(): Rule {
    const root = this.#ruleOf(this.#root, "");
    for (let next = this.#undrawn.pop(); next !== undefined; next = this.#undrawn.pop()) {
      const { schema, pointer, rule } = next;
      try {
        this.#draw(schema, pointer, rule);
      } catch (error) {
        // The network and the regular expressions know nothing of pointers.
        if (!(error instanceof PrefixdError) || error.message.startsWith("At ")) throw error;
        throw new PrefixdError(
          error.code,
          `At ${pointer === "" ? "the root" : pointer} of the schema: ${error.message}`,
        );
      }
    }
    const looping = leftRecursive(this.net);
    if (looping !== null) failInvalid(this.#pointerOf(looping), "it leads back to itself before anything is written");
    return root;
  }

  readonly #part: DrawPart = (schema, pointer, from, to) => this.net.call(from, this.#ruleOf(schema, pointer), to);

  #ruleOf(schema: unknown, pointer: string): Rule {
    if (isAnything(schema)) return this.#anything();
    let rule = this.#rules.get(pointer);
    if (rule === undefined) {
      rule = this.net.rule();
      this.#rules.set(pointer, rule);
      this.#undrawn.push({ schema, pointer, rule });
    }
    return rule;
  }

  #pointerOf(rule: Rule): string {
    return [...this.#rules].find(([, one]) => one === rule)?.[0] ?? "";
  }

  /** Any JSON value: one rule for all. */
  #anything(): Rule {
    return this.net.shared("anything", (from, to) => {
      for (const type of TYPES) if (type !== "integer") this.#drawType(type, {}, "", from, to);
    });
  }

  #draw(schema: unknown, pointer: string, { start, end }: Rule): void {
    // Nothing is valid: a rule that nothing ends.
    if (schema === false) return;
    if (typeof schema !== "object" || schema === null || Array.isArray(schema))
      failInvalid(pointer, "this is no schema, which is an object, true or false");
    const keywords = Object.keys(schema).filter((name) => !isAnnotation(name) || (name === "$id" && pointer !== ""));
    for (const name of keywords) checkKeyword(name, pointer);
    const head = HEADS.find((name) => keywords.includes(name));
    if (head === undefined) return this.#drawTypes(schema as SchemaObject, keywords, pointer, start, end);
    const beside = keywords.find((name) => name !== head && (name !== "type" || head === "$ref"));
    if (beside !== undefined)
      failUnsupported(`${pointer}/${escaped(beside)}`, `${beside} is not supported beside ${head}`);
    this.#drawHead(head, schema as SchemaObject, pointer, start, end);
  }

  #drawHead(head: Head, schema: SchemaObject, pointer: string, from: number, to: number): void {
    const at = `${pointer}/${head}`;
    const value = schema[head];
    switch (head) {
      case "$ref": {
        const target = resolve(this.#root, value, at);
        return this.#part(target.schema, target.pointer, from, to);
      }
      case "const":
      case "enum":
        return this.#drawEnum(head === "const" ? [value] : value, schema["type"], at, from, to);
      case "anyOf":
      case "oneOf":
      case "allOf": {
        if (!Array.isArray(value) || value.length === 0) failInvalid(at, "must be a list that is not empty");
        const branches = value.map((branch, index) => this.#followed({ schema: branch, pointer: `${at}/${index}` }));
        if (schema["type"] !== undefined) checkTypeBeside(schema["type"], branches, head, pointer);
        if (head === "allOf" && branches.length > 1) failUnsupported(at, "allOf is supported with one schema only");
        if (head === "oneOf" && !excludeEachOther(branches))
          failUnsupported(
            at,
            "its schemas must exclude each other, by type, by values, or by a required property with const or enum; otherwise use anyOf",
          );
        for (const [index, branch] of value.entries()) this.#part(branch, `${at}/${index}`, from, to);
      }
    }
  }

  /** A schema, or what its `$ref` points to at last. */
  #followed(place: Place): unknown {
    const seen = new Set<string>();
    let { schema, pointer } = place;
    while (typeof schema === "object" && schema !== null && Object.hasOwn(schema, "$ref") && !seen.has(pointer)) {
      const known = this.#refs.get(pointer);
      if (known !== undefined) {
        schema = known.schema;
        break;
      }
      seen.add(pointer);
      ({ schema, pointer } = resolve(this.#root, (schema as SchemaObject)["$ref"], `${pointer}/$ref`));
    }
    for (const begin of seen) this.#refs.set(begin, { schema });
    return schema;
  }

  #drawEnum(values: unknown, type: unknown, at: string, from: number, to: number): void {
    if (!Array.isArray(values) || values.length === 0) failInvalid(at, "must be a list that is not empty");
    if (!values.every(isExact))
      failUnsupported(at, "its whole numbers must be at most 2^53 - 1, others at most 1.8e308");
    const types = type === undefined ? TYPES : typesOf(type, at.slice(0, at.lastIndexOf("/")));
    drawValues(
      this.net,
      values.filter((value) => isOf(value, types)),
      from,
      to,
    );
  }

  #drawTypes(schema: SchemaObject, keywords: readonly string[], pointer: string, from: number, to: number): void {
    const used = keywords.filter((name) => name !== "type");
    let types = schema["type"] === undefined ? null : typesOf(schema["type"], pointer);
    // Without a type a keyword says nothing of the types that it is not about. Only those that it is about are written.
    types ??= TYPES.filter((type) => type !== "integer" && BY_TYPE[type].some((name) => used.includes(name)));
    if (types.includes("number")) types = types.filter((type) => type !== "integer");
    const stray = used.find((name) => !types.some((type) => BY_TYPE[type].includes(name)));
    if (stray !== undefined)
      failUnsupported(`${pointer}/${escaped(stray)}`, `${stray} says nothing of the type ${types.join(", ")}`);
    for (const type of new Set(types)) this.#drawType(type, schema, pointer, from, to);
  }

  #drawType(type: JsonType, schema: SchemaObject, pointer: string, from: number, to: number): void {
    const { net } = this;
    switch (type) {
      case "null":
        return net.text(from, "null", to);
      case "boolean":
        return net.oneOf(from, ["true", "false"], to);
      case "integer":
      case "number": {
        const range = boundsOf(schema, pointer);
        const draw = (a: number, b: number): void => drawNumbers(net, range, type === "integer", a, b);
        return range === EVERYTHING ? net.call(from, net.shared(type, draw), to) : draw(from, to);
      }
      case "string":
        return drawString(net, schema, pointer, from, to);
      case "array":
        return drawArray(net, schema, pointer, this.#part, from, to);
      case "object":
        return drawObject(net, schema, pointer, this.#part, from, to);
    }
  }
}

const isAnything = (schema: unknown): boolean =>
  schema === true ||
  (typeof schema === "object" &&
    schema !== null &&
    !Array.isArray(schema) &&
    Object.keys(schema).every((name) => isAnnotation(name) && name !== "$id"));

function checkKeyword(name: string, pointer: string): void {
  const at = `${pointer}/${escaped(name)}`;
  if (!Object.hasOwn(KEYWORDS, name))
    failUnsupported(at, `${JSON.stringify(name.slice(0, 64))} is no keyword of JSON Schema`);
  const { treatment, note } = KEYWORDS[name]!;
  if (name === "$id") failUnsupported(at, "$id is supported at the root only");
  if (treatment === "refused") failUnsupported(at, `${name} is not supported${note === undefined ? "" : `; ${note}`}`);
}

function typesOf(type: unknown, pointer: string): JsonType[] {
  const types = [type].flat();
  const wrong = types.find((one) => !TYPES.includes(one as JsonType));
  if (types.length === 0 || wrong !== undefined)
    failInvalid(`${pointer}/type`, `must be one or several of ${TYPES.join(", ")}`);
  return types as JsonType[];
}

function checkTypeBeside(type: unknown, branches: readonly unknown[], head: Head, pointer: string): void {
  const types = typesOf(type, pointer);
  const has = (branch: unknown): boolean =>
    typeof branch === "object" &&
    branch !== null &&
    [(branch as SchemaObject)["type"]].flat().every((one) => types.includes(one as JsonType));
  if (!branches.every(has))
    failUnsupported(`${pointer}/type`, `type is not supported beside ${head} unless all of its schemas have it`);
}
