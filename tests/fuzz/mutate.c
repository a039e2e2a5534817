// SPDX-License-Identifier: MIT
/* Mutations of a play's steps instead of its bytes. */
#include "hostile.h"

static void random_step(struct play_step *s, unsigned seed)
{
	static const uint64_t values[] = { 0,
					   1,
					   2,
					   3,
					   5,
					   12,
					   13,
					   64,
					   69,
					   70,
					   71,
					   4095,
					   4096,
					   65535,
					   65536,
					   INT32_MAX,
					   UINT32_MAX,
					   UINT64_MAX,
					   UINT64_C(1) << 63,
					   UINT64_C(86400000000) };
	const unsigned nvalues = sizeof(values) / sizeof(values[0]);

	*s = (struct play_step){ .op = (uint8_t)(seed % STEP_OPS),
				 .type = (uint8_t)(seed >> 8),
				 .at = (uint8_t)(seed >> 5) & 0x7c,
				 .width = (uint8_t)(seed >> 16) & 3,
				 .n = (uint32_t)values[(seed >> 18) % nvalues],
				 .v = values[(seed >> 23) % nvalues] };
}

size_t hostile_mutate(uint8_t *data, size_t size, size_t max, unsigned seed)
{
	const size_t head = sizeof(struct play), one = sizeof(struct play_step);
	size_t n, i, room;
	uint8_t *at;

	if (size < head) {
		memset(data, 0, head);
		size = head;
	}
	n = (size - head) / one;
	room = (max - head) / one;
	i = n ? seed / 16 % n : 0;
	at = data + head + i * one;
	switch (seed % 16) {
	case 0:
	case 1:
	case 2:
	case 3: /* insert a step */
		if (n >= room || n >= PLAY_STEPS_MAX)
			break;
		memmove(at + one, at, (n - i) * one);
		random_step((struct play_step *)(void *)at, seed * 2654435761u);
		return head + (n + 1) * one;
	case 4: /* remove a step */
		if (!n)
			break;
		memmove(at, at + one, (n - i - 1) * one);
		return head + (n - 1) * one;
	case 5: /* repeat a step */
		if (!n || n >= room || n >= PLAY_STEPS_MAX)
			break;
		memmove(at + one, at, (n - i) * one);
		return head + (n + 1) * one;
	case 6:
		LLVMFuzzerMutate(data, head, head);
		return head + n * one;
	case 7: /* one correct turn more or less */
		data[1] += seed & 16 ? 1 : -1;
		return head + n * one;
	default:
		if (n)
			LLVMFuzzerMutate(at, one, one);
		return head + n * one;
	}
	return head + n * one;
}
