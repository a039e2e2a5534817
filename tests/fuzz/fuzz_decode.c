// SPDX-License-Identifier: MIT
/*
 * Decoders of a peer's bytes without a session: wire_check() (byte 0 even), the parser of device state (1
 * modulo 4) and the parser of URIs (3 modulo 4).
 *
 * wire: sender, phase, sequence number (a byte each), then the message. All lengths of an accepted message
 * must lie within the message, and every error must have a sentence.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "runtime/base/fail.h"
#include "runtime/link/stream.h"
#include "runtime/link/wire.h"
#include "transport/uri.h"

#define WIRE_AT 4u /* offset of the message */

/* Read every byte, so that the sanitizer finds a wrong length. */
static unsigned sum(const void *p, size_t len)
{
	const uint8_t *b = p;
	unsigned s = 0;

	for (size_t i = 0; i < len; i++)
		s += b[i];
	return s;
}

static void has_sentence(struct fail *f, int err)
{
	promise(err < 0 && fail_err(f) == err && fail_text(f)[0], "error %d has no sentence", err);
}

static void wire(const uint8_t *data, size_t size)
{
	struct fuzz_in in = { data, size };
	enum wire_from from = fuzz_u8(&in) & 1 ? FROM_TARGET : FROM_SOURCE;
	enum ferry_phase phase = fuzz_u8(&in) % (FERRY_PHASE_FAILED + 1);
	uint32_t seq = fuzz_u8(&in);
	uint8_t *msg = malloc(in.left + 1); /* not aligned, and not longer than the message */
	struct wire_msg m = { 0 };
	struct fail f = { 0 };
	struct wire_hdr h;
	int err;

	memcpy(msg + 1, in.at, in.left);
	promise(wire_type_of(msg + 1, in.left) <= UINT16_MAX, "a type of more than 16 bits");
	err = wire_check(&m, msg + 1, in.left, from, phase, seq, &f);
	if (err) {
		has_sentence(&f, err);
		promise(err == -EPROTO, "a message was refused with %d", err);
	} else if (wire_is_aside(wire_type_of(msg + 1, in.left)) && !m.type) {
		promise(wire_type_of(msg + 1, in.left) & WIRE_OPTIONAL,
			"a message that is not optional is skipped");
		promise(!m.body && !m.elems && !m.nelems, "what is skipped has a body");
	} else {
		memcpy(&h, msg + 1, sizeof(h));
		promise(m.type == h.type && wire_from(m.type) & from, "message %u came through as %u", h.type,
			m.type);
		promise((const uint8_t *)m.body >= msg + 1 && (const uint8_t *)m.elems <= msg + 1 + in.left,
			"%s lies outside its message", wire_name(m.type));
		sum(m.body, (size_t)((const uint8_t *)m.elems - (const uint8_t *)m.body));
		sum(m.elems, (size_t)(msg + 1 + in.left - (const uint8_t *)m.elems));
		promise(m.nelems <= in.left, "%s has %zu elements in %zu bytes", wire_name(m.type), m.nelems,
			in.left);
	}
	free(msg);
}

static void stream(const uint8_t *data, size_t size)
{
	struct ferry_section sec = { 0 };
	struct ferry_stream st;
	size_t total = 0;
	int got;

	stream_init(&st);
	promise(!stream_append(&st, data, size), "a stream of %zu bytes does not fit", size);
	while ((got = ferry_stream_next(&st, &sec)) > 0) {
		sum(sec.data, sec.len);
		total += sec.len + 16;
		promise(total <= size, "sections of %zu bytes in a stream of %zu", total, size);
	}
	if (got < 0)
		has_sentence(&st.fail, got);
	else
		promise(total == size, "%zu bytes of a stream of %zu were read", total, size);
	stream_destroy(&st);
}

static void uri(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1);
	struct fail f = { 0 };
	struct uri u;
	uint64_t v;
	int err;

	memcpy(text, data, size);
	text[size] = 0;
	err = uri_parse(&u, text, &f);
	if (err) {
		has_sentence(&f, err);
	} else {
		promise(strlen(u.scheme) < sizeof(u.scheme) && strlen(u.host) < sizeof(u.host) &&
				u.nquery <= URI_QUERY_MAX,
			"a URI does not fit its struct");
		for (unsigned i = 0; i < u.nquery; i++) {
			promise(uri_query(&u, u.query[i].key), "key \"%s\" was read and is not there",
				u.query[i].key);
			if ((err = uri_query_u64(&u, u.query[i].key, 7, &v, &f)) < 0)
				has_sentence(&f, err);
			fail_reset(&f);
		}
	}
	free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!size)
		return 0;
	if (data[0] % 2 == 0)
		wire(data + 1, size - 1);
	else if (data[0] % 4 == 1)
		stream(data + 1, size - 1);
	else
		uri(data + 1, size - 1);
	return 0;
}

/* After three of four mutations the header is made to fit the message, so that mostly the body is wrong. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
	struct wire_hdr h;

	size = LLVMFuzzerMutate(data, size, max);
	if (size < WIRE_AT + sizeof(h) || data[0] % 2 || seed % 4 == 0)
		return size;
	memcpy(&h, data + WIRE_AT, sizeof(h));
	h = wire_header((enum wire_type)(h.type < WIRE_TYPES ? h.type : h.type % WIRE_TYPES),
			size - WIRE_AT - sizeof(h), data[3]);
	memcpy(data + WIRE_AT, &h, sizeof(h));
	return size;
}
