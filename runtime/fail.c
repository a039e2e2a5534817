// SPDX-License-Identifier: MIT
#include "fail.h"

#include <stdarg.h>
#include <stdio.h>

int fail(struct fail *f, int err, const char *fmt, ...)
{
	int none = 0;
	va_list ap;

	if (!f || !atomic_compare_exchange_strong(&f->state, &none, 1))
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

void fail_reset(struct fail *f)
{
	f->err = 0;
	f->text[0] = '\0';
	atomic_store_explicit(&f->state, 0, memory_order_release);
}
