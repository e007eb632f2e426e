/**
 * Formats of JSON Schema as regular expressions: RFC 3339 (with upper-case letters, no leap seconds), RFC 9562, RFC
 * 2673.
 */

const LEAP_YEAR = "(\\d\\d(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)";
const DAYS = "(0[13578]|1[02])-(0[1-9]|[12]\\d|3[01])|(0[469]|11)-(0[1-9]|[12]\\d|30)|02-(0[1-9]|1\\d|2[0-8])";
const DATE = `(\\d{4}-(${DAYS})|${LEAP_YEAR}-02-29)`;
const HOUR = "([01]\\d|2[0-3])";
const TIME = `${HOUR}:[0-5]\\d:[0-5]\\d(\\.\\d{1,6})?(Z|[+-]${HOUR}:[0-5]\\d)`;
const BYTE = "(25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)";

export const FORMATS: Readonly<Record<string, string>> = {
  date: DATE,
  time: TIME,
  "date-time": `${DATE}T${TIME}`,
  uuid: "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
  ipv4: `(${BYTE}\\.){3}${BYTE}`,
};
