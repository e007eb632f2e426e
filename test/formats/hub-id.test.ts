import t from "tap";
import { parseHubId } from "../../src/formats/hub-id.ts";

t.test("an id has an owner, a name and perhaps a revision", (t) => {
  t.same(parseHubId("openai-community/gpt2"), { name: "openai-community/gpt2", revision: null });
  t.same(parseHubId("org/my.model_1@refs/pr/1"), { name: "org/my.model_1", revision: "refs/pr/1" });
  t.end();
});

t.test("paths and other texts are no ids", (t) => {
  for (const text of ["", "gpt2", "/models/gpt2", "./gpt2", "../gpt2", "a/b/c", "org/..", "org/x@../../y", "org/x@"])
    t.equal(parseHubId(text), null, text);
  t.end();
});
