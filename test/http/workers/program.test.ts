/** Suites of the program, with HTTP workers: drain, removal, keys and the audit log. */
process.env["TEST_HTTP_WORKERS"] = "2";
await import("../../integration/drain.test.ts");
await import("../../integration/users.test.ts");

export {};
