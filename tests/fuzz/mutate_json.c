// SPDX-License-Identifier: MIT
/* Replaces, removes and repeats values of JSON lines. */
#include "mutate_json.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"

/* Values that break readers: empty ones, limits of types, huge times, values of another type. */
static json_t *another(unsigned seed)
{
	static const json_int_t numbers[] = { 0,
					      -1,
					      1,
					      2,
					      77,
					      4095,
					      65536,
					      INT32_MAX,
					      UINT32_MAX,
					      INT64_C(1) << 53,
					      INT64_C(1) << 60,
					      INT64_MAX,
					      INT64_MIN };
	static const double reals[] = { 0.5, -1e9, 1e16, 1e19, 1e300, -1e300, 1e-300 };
	static const char *const words[] = { "",
					     "source",
					     "target",
					     "pre-copy",
					     "9999G",
					     "-",
					     "\x1b[31m",
					     "\xc2\x9b",
					     "\n",
					     "%n%s",
					     "0123456789abcdef0123456789abcde" };

	switch (seed % 8) {
	case 0:
		return json_null();
	case 1:
		return json_boolean(seed & 8);
	case 2:
		return json_object();
	case 3:
		return json_array();
	case 4:
		return json_string(words[seed / 8 % (sizeof(words) / sizeof(*words))]);
	case 5:
		return json_real(reals[seed / 8 % (sizeof(reals) / sizeof(*reals))]);
	default:
		return json_integer(numbers[seed / 8 % (sizeof(numbers) / sizeof(*numbers))]);
	}
}

static size_t values(const json_t *v)
{
	return json_is_array(v) ? json_array_size(v) : json_object_size(v);
}

/* A random place below v. */
static void mutate_within(json_t *v, unsigned seed)
{
	size_t n = values(v), i = n ? seed / 64 % n : 0;
	void *at = json_object_iter(v);
	json_t *child;

	for (size_t k = 0; at && k < i; k++)
		at = json_object_iter_next(v, at);
	if (!n) {
		json_array_append_new(v, another(seed));
		if (json_is_object(v))
			json_object_set_new(v, "t_us", another(seed));
		return;
	}
	child = json_is_array(v) ? json_array_get(v, i) : json_object_iter_value(at);
	if (values(child) && seed % 5) {
		mutate_within(child, seed * 2654435761u + 1);
		return;
	}
	if (seed % 7 == 0 && json_is_array(v))
		json_array_insert(v, i, child); /* repeat the element */
	else if (seed % 7 == 1 && json_is_array(v))
		json_array_remove(v, i);
	else if (seed % 7 == 1)
		json_object_del(v, json_object_iter_key(at));
	else if (json_is_array(v))
		json_array_set_new(v, i, another(seed / 7));
	else
		json_object_iter_set_new(v, at, another(seed / 7));
}

size_t mutate_json(uint8_t *data, size_t size, size_t max, size_t head, unsigned seed)
{
	uint8_t *from = data + head, *end;
	size_t nlines = 1, len, room;
	char *text = NULL;
	json_t *o;

	if (size <= head || seed % 4 == 0)
		return LLVMFuzzerMutate(data, size, max);
	for (size_t i = head; i < size; i++)
		nlines += data[i] == '\n';
	for (size_t skip = seed / 4 % nlines; skip; skip--)
		from = (uint8_t *)memchr(from, '\n', (size_t)(data + size - from)) + 1;
	end = memchr(from, '\n', (size_t)(data + size - from));
	len = (size_t)((end ? end : data + size) - from);
	o = json_loadb((const char *)from, len, 0, NULL);
	if (o) {
		mutate_within(o, seed * 2246822519u + 3);
		text = json_dumps(o, JSON_COMPACT);
	}
	json_decref(o);
	room = len + (max - size);
	if (!text || strlen(text) > room) {
		free(text);
		return LLVMFuzzerMutate(data, size, max);
	}
	memmove(from + strlen(text), from + len, (size_t)(data + size - from) - len);
	memcpy(from, text, strlen(text));
	size = size - len + strlen(text);
	free(text);
	return size;
}
