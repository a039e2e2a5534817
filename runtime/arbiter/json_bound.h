/* SPDX-License-Identifier: MIT */
/*
 * Bounds the memory and the depth of foreign JSON before it is parsed.
 *
 * jansson parses as long as memory lasts: a text of "[],[],[]" takes forty times its length, and each level
 * of nesting takes stack, of which a thread may have little. So the text is first scanned once, without
 * allocating: how deep it nests, and how much memory its values would take. Both results are upper bounds,
 * also for a text that is not JSON: jansson stops where the text is wrong, and up to there the scan counts
 * the same.
 *
 * A header, because the arbiter is a library of its own and the programs are built without it, too.
 */
#ifndef FERRY_JSON_BOUND_H
#define FERRY_JSON_BOUND_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

struct json_bound {
	size_t bytes;  /* of the text */
	size_t memory; /* that its values may take */
};

#define JSON_BOUND_DEPTH 16u /* nothing read here nests deeper than eight */

/* What jansson allocates, with glibc's rounding and the waste of doubling arrays; test_json_bound checks. */
enum {
	JSON_COST_VALUE = 64,
	JSON_COST_STRING = 64,
	JSON_COST_KEY = 176,
	JSON_COST_OPEN = 288,
	JSON_COST_BYTE = 5
};

struct json_scan {
	size_t memory;
	unsigned depth; /* the deepest level */
};

/* Replace control characters (U+0080 to U+009F too): foreign text must not command a terminal. */
static inline void json_printable(char *text)
{
	for (unsigned char *c = (unsigned char *)text; *c; c++) {
		bool c1 = *c == 0xc2 && c[1] >= 0x80 && c[1] < 0xa0;

		if (*c < 0x20 || *c == 0x7f || c1)
			*c = '?';
		if (c1)
			c[1] = '?';
	}
}

/* The length of the JSON string at `at`, quotation marks included; if it is not closed, up to end. */
static inline size_t json_string_span(const char *at, const char *end)
{
	const char *p = at + 1;

	while (p < end && *p != '"')
		p += *p == '\\' && p + 1 < end ? 2 : 1;
	return (size_t)((p < end ? p + 1 : end) - at);
}

static inline struct json_scan json_scan(const char *text, size_t len)
{
	struct json_scan s = { .memory = JSON_COST_VALUE };
	size_t longest = 0, span = 1, number = 0; /* jansson's buffer for an unfinished token doubles */
	const char *end = text + len;
	unsigned depth = 0;

	for (const char *p = text; p < end; p += span) {
		span = 1;
		number = strchr("\"[]{},:", *p) && *p ? 0 : number + 1;
		switch (*p) {
		case '"':
			span = json_string_span(p, end);
			s.memory += JSON_COST_STRING + span;
			break;
		case '[':
		case '{':
			s.memory += JSON_COST_OPEN;
			depth++;
			s.depth = depth > s.depth ? depth : s.depth;
			break;
		case ']':
		case '}':
			depth -= depth > 0;
			break;
		case ',':
			s.memory += JSON_COST_VALUE;
			break;
		case ':':
			s.memory += JSON_COST_KEY;
			break;
		default:
			break;
		}
		longest = span > longest ? span : number > longest ? number : longest;
	}
	s.memory += longest * JSON_COST_BYTE;
	return s;
}

/* Parse, or return NULL with a phrase in why that says what is wrong with the text. */
static inline json_t *json_load_bounded(const char *text, size_t len, const struct json_bound *b, char *why,
					size_t cap)
{
	struct json_scan s = { 0 };
	json_error_t at;
	json_t *o;

	if (len > b->bytes) {
		snprintf(why, cap, "a text of more than the %zu bytes that are read", b->bytes);
		return NULL;
	}
	s = json_scan(text, len);
	if (s.depth > JSON_BOUND_DEPTH || s.memory > b->memory) {
		if (s.depth > JSON_BOUND_DEPTH)
			snprintf(why, cap, "nested %u deep, and at most %u are read", s.depth,
				 JSON_BOUND_DEPTH);
		else
			snprintf(why, cap, "%zu bytes that would take %zu of memory, and %zu are given", len,
				 s.memory, b->memory);
		return NULL;
	}
	o = json_loadb(text, len, JSON_REJECT_DUPLICATES, &at);
	if (o)
		return o;
	json_printable(at.text); /* it quotes the text */
	snprintf(why, cap, "%s (line %d, column %d)", at.text, at.line, at.column);
	return NULL;
}

#endif
