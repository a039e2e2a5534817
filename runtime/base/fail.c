// SPDX-License-Identifier: MIT
/* Keeps the first error and its sentence. */
#include "fail.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>

static bool is_first(_Atomic int *state)
{
	int none = 0;

	return atomic_compare_exchange_strong(state, &none, 1);
}

int fail(struct fail *f, int err, const char *fmt, ...)
{
	va_list ap;

	if (!f || !is_first(&f->state))
		return err;
	f->err = err;
	va_start(ap, fmt);
	vsnprintf(f->text, sizeof(f->text), fmt, ap);
	va_end(ap);
	atomic_store_explicit(&f->state, 2, memory_order_release);
	return err;
}

int fail_err(struct fail *f)
{
	return f && atomic_load_explicit(&f->state, memory_order_acquire) == 2 ? f->err : 0;
}

const char *fail_text(struct fail *f)
{
	return f && atomic_load_explicit(&f->state, memory_order_acquire) == 2 ? f->text : "";
}

int fail_lost(struct fail *f, const char *fmt, ...)
{
	va_list ap;

	if (!f || !is_first(&f->lost_state))
		return -EPIPE;
	va_start(ap, fmt);
	vsnprintf(f->lost, sizeof(f->lost), fmt, ap);
	va_end(ap);
	atomic_store_explicit(&f->lost_state, 2, memory_order_release);
	return -EPIPE;
}

const char *fail_lost_text(struct fail *f)
{
	return f && atomic_load_explicit(&f->lost_state, memory_order_acquire) == 2 ? f->lost : "";
}

void fail_forgive(struct fail *f)
{
	int done = 2;

	atomic_compare_exchange_strong(&f->state, &done, 3);
}

void fail_reset(struct fail *f)
{
	f->lost[0] = '\0';
	atomic_store_explicit(&f->lost_state, 0, memory_order_release);
	f->err = 0;
	f->text[0] = '\0';
	atomic_store_explicit(&f->state, 0, memory_order_release);
}
