/** `structured_outputs` of a request: one form in which its answers must be. */
import Type, { type Static } from "typebox";
import { PrefixdError } from "../../errors.ts";
import type { ConstraintSpec } from "../../generation/service.ts";
import { strict } from "../common-schema.ts";

export const MAX_CHOICES = 1024;
const FORMS = ["choice", "regex", "json", "json_object"] as const;
const { Optional } = Type;

export const StructuredOutputs = strict(
  {
    choice: Optional(
      Type.Array(Type.String(), { minItems: 1, maxItems: MAX_CHOICES, description: "One of these texts." }),
    ),
    regex: Optional(
      Type.String({
        description: "A text that this regular expression matches as a whole (ECMAScript's, over code points).",
      }),
    ),
    json: Optional(
      Type.Union([Type.Object({}), Type.Boolean()], { description: "JSON that is valid by this JSON Schema." }),
    ),
    json_object: Optional(Type.Literal(true, { description: "Any JSON object." })),
    leading_space: Optional(
      Type.Boolean({
        default: true,
        description:
          "The model may write one space first, which is not part of `text`: GPT-2's words begin with one. No effect where the form itself may begin with a space.",
      }),
    ),
  },
  {
    description:
      "The form of every answer: exactly one of choice, regex, json and json_object. What cannot be enforced is refused, never ignored; docs/reference/structured-output.md says what can. The answer is complete unless `finish_reason` is length, or a stop string ended it.",
    examples: [{ choice: ["positive", "negative"] }, { regex: "\\d{4}-\\d{2}-\\d{2}" }],
  },
);
export type StructuredOutputs = Static<typeof StructuredOutputs>;

/**
 * The constraint that a request asks for; null: none.
 * @throws PrefixdError invalid_parameter
 */
export function constraintOf(given: StructuredOutputs | undefined): ConstraintSpec | null {
  if (given === undefined) return null;
  const named = FORMS.filter((name) => given[name] !== undefined);
  if (named.length !== 1)
    throw new PrefixdError(
      "invalid_parameter",
      `structured_outputs must have exactly one of ${FORMS.join(", ")}; it has ${named.join(" and ") || "none"}.`,
      { field: "structured_outputs" },
    );
  return { form: formOf(given), leadingSpace: given.leading_space ?? true };
}

function formOf({ choice, regex, json }: StructuredOutputs): ConstraintSpec["form"] {
  if (choice !== undefined) return { kind: "choice", texts: choice };
  if (regex !== undefined) return { kind: "regex", source: regex };
  return { kind: "json", schema: json ?? { type: "object" } };
}
