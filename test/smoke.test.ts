import t from "tap";
import { PrefixdError } from "../src/errors.ts";
t.test("x", async (t) => { t.equal(new PrefixdError("queue_full", "d").status, 429); });
