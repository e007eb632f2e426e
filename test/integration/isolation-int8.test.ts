import { isolationSuite } from "./isolation-suite.ts";

isolationSuite("int8");
