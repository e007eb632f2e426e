import t from "tap";
import { checkPrefixName } from "../../src/prefixes/name.ts";
import { nameFrom } from "../../src/training/jobs/service.ts";

t.test("a suffix as a part of a name", async (t) => {
  const cases: [suffix: string | null, start: string][] = [
    [null, "ft"],
    ["dates", "ft-dates"],
    ["my dates", "ft-my-dates"],
    ["v1.2_b", "ft-v1.2_b"],
    ["é / 2", "ft-e-2"],
    ["--a -- b--", "ft-a-b"],
    ["Überschriften für Ann", "ft-Uberschriften-fur-Ann"],
    [" / ", "ft"],
    ["日本語", "ft"],
    ["x".repeat(64), `ft-${"x".repeat(64)}`],
  ];
  for (const [suffix, start] of cases) {
    const name = nameFrom(suffix);
    t.match(name, new RegExp(`^${start.replaceAll(".", "\\.")}-[0-9a-f]{8}$`), String(suffix));
    t.doesNotThrow(() => checkPrefixName(name));
    t.not(nameFrom(suffix), name);
  }
});
