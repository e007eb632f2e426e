import Type, { type Static } from "typebox";
import { named, strict } from "../common-schema.ts";

export const Liveness = named("Liveness", strict({ status: Type.Literal("ok") }));
export const Readiness = named(
  "Readiness",
  strict({
    status: Type.Enum(["ready", "unavailable"]),
    checks: Type.Record(Type.String(), Type.String(), { description: "For each part: ok, or what is wrong" }),
  }),
);
export type Readiness = Static<typeof Readiness>;
