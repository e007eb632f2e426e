import { isolationSuite } from "./isolation-suite.ts";

isolationSuite("fp32");
