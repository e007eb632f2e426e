/** The suites of what a client may do to a connection, with HTTP workers. */
process.env["TEST_HTTP_WORKERS"] = "2";
await import("../connections/drain.test.ts");
await import("../connections/pipelining.test.ts");
await import("../connections/slow-clients.test.ts");
await import("../bodies.test.ts");

export {};
