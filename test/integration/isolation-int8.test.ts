import { isolationSuite } from "../support/isolation.ts";

isolationSuite("int8");
