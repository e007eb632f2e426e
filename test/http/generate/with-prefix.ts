import { buildTestApp, type TestApp } from "../../support/app.ts";

export async function withPrefix(
  t: Parameters<typeof buildTestApp>[0],
  over: Parameters<typeof buildTestApp>[1] = {},
): Promise<TestApp> {
  const app = await buildTestApp(t, over);
  await app.registry.register({ user: "local", name: "p" }, { kind: "hard", ids: Int32Array.of(1, 2, 3) });
  return app;
}
