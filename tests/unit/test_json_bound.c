// SPDX-License-Identifier: MIT
/* JSON from outside: what it would take is known before it is parsed, and what would take too much is not. */
#include <criterion/criterion.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/arbiter/json_bound.h"

static const struct json_bound wide = { .bytes = 64u << 20, .memory = 1u << 30 };

static size_t now, most;

static void *counted(size_t n)
{
	void *p = malloc(n);

	now += malloc_usable_size(p) + sizeof(size_t);
	most = now > most ? now : most;
	return p;
}

static void given_back(void *p)
{
	if (p)
		now -= malloc_usable_size(p) + sizeof(size_t);
	free(p);
}

/* count times piece, with commas, between open and close; *len of it. */
static char *many(const char *open, const char *piece, const char *close, size_t count, size_t *len)
{
	size_t one = strlen(piece), n = strlen(open);
	char *text = malloc(n + count * (one + 1) + strlen(close) + 32);

	cr_assert_not_null(text);
	memcpy(text, open, n);
	for (size_t i = 0; i < count; i++) {
		if (i)
			text[n++] = ',';
		memcpy(text + n, piece, one);
		n += one;
	}
	strcpy(text + n, close);
	*len = n + strlen(close);
	return text;
}

/* How much more than its bound jansson takes at most; parsed: the text is JSON. */
static void within(const char *text, size_t len, bool parsed)
{
	struct json_scan s = json_scan(text, len);
	char why[300] = "";
	json_t *o;

	now = most = 0;
	json_set_alloc_funcs(counted, given_back);
	o = json_load_bounded(text, len, &wide, why, sizeof(why));
	cr_expect_eq(!!o, parsed, "%.60s: %s", text, why);
	json_decref(o);
	json_set_alloc_funcs(malloc, free);
	cr_expect_leq(most, s.memory, "%.60s: %zu bytes were to be enough, it took %zu", text, s.memory,
		      most);
	cr_expect_eq(now, 0);
}

Test(json_bound, no_less_is_reckoned_than_jansson_takes)
{
	static const char *const pieces[] = { "1",
					      "[]",
					      "{}",
					      "\"\"",
					      "\"abcdefghijklmnop\"",
					      "null",
					      "-1.5e3",
					      "[1]",
					      "[[],[]]",
					      "{\"a\":1}",
					      "[1,2,3,4,5,6,7,8,9]",
					      "{\"a\":{}}",
					      "{\"a\":[],\"b\":\"\"}",
					      "\"\\u00e4\\\\\"" };
	static const size_t counts[] = { 0, 1, 2, 9, 33, 1025, 70001 };

	for (size_t p = 0; p < sizeof(pieces) / sizeof(*pieces); p++)
		for (size_t c = 0; c < sizeof(counts) / sizeof(*counts); c++) {
			size_t len;
			char *text = many("[", pieces[p], "]", counts[c], &len);

			within(text, len, true);
			within(text, len - 1, false); /* cut off: all of it was there before that was seen */
			free(text);
		}
}

Test(json_bound, an_object_of_many_keys)
{
	for (unsigned n = 1; n < 100000; n *= 7) {
		size_t len = 1;
		char *text = malloc(n * 24 + 2);

		text[0] = '{';
		for (unsigned i = 0; i < n; i++)
			len += (size_t)sprintf(text + len, "%s\"k%u\":%u", i ? "," : "", i, i);
		text[len++] = '}';
		within(text, len, true);
		free(text);
	}
}

Test(json_bound, one_long_string_or_number)
{
	for (size_t n = 1; n < 1u << 22; n = n * 3 + 1) {
		char *text = malloc(n + 4);

		memset(text, 'x', n + 4);
		memcpy(text, "[\"", 2);
		memcpy(text + n + 2, "\"]", 2);
		within(text, n + 4, true);
		within(text, n, false);
		memset(text, '1', n + 4);
		text[0] = '[';
		text[n + 3] = ']';
		within(text, n + 4, n < 14);
		free(text);
	}
}

static void refused(const char *text, size_t len, const struct json_bound *b, const char *because)
{
	char why[300] = "";

	json_set_alloc_funcs(NULL, NULL); /* it must not even begin */
	cr_expect_null(json_load_bounded(text, len, b, why, sizeof(why)));
	json_set_alloc_funcs(malloc, free);
	cr_expect(strstr(why, because), "\"%s\" is not in: %s", because, why);
}

Test(json_bound, too_long_too_deep_too_dear)
{
	struct json_bound b = { .bytes = 1000, .memory = 1u << 20 },
			  large = { .bytes = 60u << 20, .memory = 16u << 20 };
	char deep[64];
	size_t len;
	char *text = many("[", "[]", "]", 20u << 20, &len);

	refused(text, 1001, &b, "more than the 1000 bytes");
	refused(text, 60u << 20, &large, "of memory, and 16777216 are given");
	free(text);
	memset(deep, '[', sizeof(deep));
	refused(deep, sizeof(deep), &b, "nested 64 deep, and at most 16 are read");
}

/* What is in a string opens nothing and closes nothing. */
Test(json_bound, a_string_is_no_structure)
{
	static const char text[] = "[\"[[[[[[[[[[[[[[[[[[[[[[[[[[\\\"[[[[\\\\\",\"]]]]]]]]\"]";

	cr_expect_eq(json_scan(text, strlen(text)).depth, 1);
	within(text, strlen(text), true);
}

Test(json_bound, what_is_wrong_is_quoted_without_control_characters)
{
	char why[300] = "";

	cr_expect_null(json_load_bounded("\x1b[31m", 5, &wide, why, sizeof(why)));
	cr_expect(why[0] && !strchr(why, 0x1b), "%s", why);
}
