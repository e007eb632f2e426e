/**
 * Writes examples/dates.jsonl, the sample that `prefixd train` is shown with: dates in English sentences to dates as
 * 01.08.2014, a form that the demo model has never seen. Generated here, so no licence is needed.
 *
 *     node tools/training-sample.mjs > examples/dates.jsonl
 */
const ROWS = 1000;
const MONTHS = "January February March April May June July August September October November December".split(" ");
const DAYS = "Sunday Monday Tuesday Wednesday Thursday Friday Saturday".split(" ");
const FORMS = [
  ({ month, day, year }) => `${month} ${day}, ${year}`,
  ({ month, day, year }) => `${day} ${month} ${year}`,
  ({ month, day, year, weekday }) => `${weekday}, ${month} ${day}, ${year}`,
  ({ month, day, year }) => `${month.slice(0, 3)} ${day}, ${year}`,
  ({ month, day, year }) => `the ${day}${ordinal(day)} of ${month}, ${year}`,
];
const SENTENCES = [
  (date) => `${date}`,
  (date) => `It was finished on ${date}.`,
  (date) => `The book came out on ${date}.`,
  (date) => `We will arrive on ${date}.`,
  (date) => `i want to book a flight to london on ${date}`,
  (date) => `Please come back on ${date}.`,
  (date) => `The meeting was moved to ${date}.`,
];

let state = 1;
/** A whole number in [0, below), of a linear congruential generator (MINSTD). */
function random(below) {
  state = (state * 48271) % 2147483647;
  return state % below;
}

function ordinal(day) {
  if (day >= 11 && day <= 13) return "th";
  return { 1: "st", 2: "nd", 3: "rd" }[day % 10] ?? "th";
}

for (let row = 0; row < ROWS; row++) {
  const date = new Date(Date.UTC(1900 + random(131), random(12), 1 + random(28)));
  const [year, month, day] = [date.getUTCFullYear(), date.getUTCMonth(), date.getUTCDate()];
  const written = FORMS[random(FORMS.length)]({ month: MONTHS[month], day, year, weekday: DAYS[date.getUTCDay()] });
  const two = (number) => String(number).padStart(2, "0");
  const prompt = `${SENTENCES[random(SENTENCES.length)](written)}\n=>`;
  console.log(JSON.stringify({ prompt, completion: ` ${two(day)}.${two(month + 1)}.${year}` }));
}
