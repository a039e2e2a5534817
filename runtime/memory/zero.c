/* SPDX-License-Identifier: MIT */
/* Tests memory for zeros with the widest registers of the CPU. */
#include "zero.h"

#include <stdint.h>

#if defined(__x86_64__)
#include <immintrin.h>

__attribute__((target("avx2"))) static bool is_zero_avx2(const char *p, const char *end)
{
	for (; p < end; p += 64) {
		__m256i a = _mm256_load_si256((const __m256i *)p);
		__m256i b = _mm256_load_si256((const __m256i *)(p + 32));
		__m256i both = _mm256_or_si256(a, b);

		if (!_mm256_testz_si256(both, both))
			return false;
	}
	return true;
}

static bool is_zero_base(const char *p, const char *end)
{
	const __m128i zero = _mm_setzero_si128();

	for (; p < end; p += 64) {
		__m128i a = _mm_or_si128(_mm_load_si128((const __m128i *)p),
					 _mm_load_si128((const __m128i *)(p + 16)));
		__m128i b = _mm_or_si128(_mm_load_si128((const __m128i *)(p + 32)),
					 _mm_load_si128((const __m128i *)(p + 48)));

		if (_mm_movemask_epi8(_mm_cmpeq_epi8(_mm_or_si128(a, b), zero)) != 0xffff)
			return false;
	}
	return true;
}

bool is_zero(const void *p, size_t len)
{
	const char *begin = p, *end = begin + len;

	/* A load and a predicted branch per call; an ifunc would run before the sanitizers are ready. */
	return __builtin_cpu_supports("avx2") ? is_zero_avx2(begin, end) : is_zero_base(begin, end);
}

bool is_zero_portable(const void *p, size_t len)
{
	return is_zero_base(p, (const char *)p + len);
}

#else

bool is_zero_portable(const void *p, size_t len)
{
	typedef uint64_t __attribute__((may_alias)) word;
	const word *w = p, *end = w + len / sizeof(*w);

	for (; w < end; w += 8) {
		if (w[0] | w[1] | w[2] | w[3] | w[4] | w[5] | w[6] | w[7])
			return false;
	}
	return true;
}

bool is_zero(const void *p, size_t len)
{
	return is_zero_portable(p, len);
}

#endif
