import Type from "typebox";

/** Settings of `structured_outputs`: what a constraint may cost. The limits count work, never time. */
export const STRUCTURED_SETTINGS = {
  structuredSourceLimit: Type.Integer({
    minimum: 64,
    maximum: 1024 ** 2,
    unit: "bytes",
    arg: "SIZE",
    default: 32 * 1024,
    shown: "32KiB",
    description: "Largest structured_outputs of a request, as JSON",
  }),
  structuredStates: Type.Integer({
    minimum: 100,
    maximum: 100_000,
    arg: "N",
    default: 6_000,
    description: "States that a request's structured_outputs may take; compiling takes some 3 ms for each 1000",
  }),
  structuredDepth: Type.Integer({
    minimum: 8,
    maximum: 1000,
    arg: "N",
    default: 64,
    description: "How deeply structured answers may be nested",
  }),
  structuredMaskWork: Type.Integer({
    minimum: 1000,
    maximum: 1_000_000_000,
    arg: "N",
    default: 2_000_000,
    description: "Work that finding one step's allowed tokens may take: nodes of the vocabulary's tree",
  }),
  structuredRequestWork: Type.Integer({
    minimum: 1000,
    maximum: 1_000_000_000_000,
    arg: "N",
    default: 200_000_000,
    description: "The same for all steps of a request",
  }),
  structuredCacheBytes: Type.Integer({
    minimum: 0,
    unit: "bytes",
    arg: "SIZE",
    default: 64 * 1024 ** 2,
    shown: "64MiB",
    description:
      "Memory for compiled structured_outputs, each user's own; one may keep an eighth of it, and 1 MiB at least while it is used",
  }),
};
