/** The suites of streams and of long bodies, with HTTP workers. */
process.env["TEST_HTTP_WORKERS"] = "2";
await import("../generate/stream.test.ts");
await import("../generate/stream-wire.test.ts");
await import("../v1/completions-stream.test.ts");
await import("../prefixes/uploads.test.ts");
await import("../prefixes/downloads.test.ts");

export {};
