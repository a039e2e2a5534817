/* SPDX-License-Identifier: MIT */
/*
 * The guest: long mode, CPL 3 with IOPL 3 (which runs natively even if KVM emulates CPL 0), no stack, no
 * memory of its own but the vCPU's page. In each visit it asks the VMM what to do, checks its registers and
 * clock, and stamps the given number of pages with the sequence number:
 *
 *	page = stamp_index(seq), by its pattern			(stamp.h)
 *	word = top 9 bits of page * K1				(a function of the page alone)
 *
 * rbx first page of the slice; rsi pages in it; r11 bytes from one page of the slice to the next; r8 sequence
 * of the last stamp; rcx stamps left of the quota; r9 last TSC; r10d number of the last output; r12 K1; r13
 * K2; ebp PATTERN_*; r14 sentinel, also in xmm5 and both halves of ymm6; r15 the vCPU's page. r8 is exact,
 * except between guest_counted and guest_stamped.
 */
#include "guest.h"

	.section .rodata
	.code64
	.balign 16
	.globl guest_begin, guest_counted, guest_stamped, guest_timer, guest_end
	.hidden guest_begin, guest_counted, guest_stamped, guest_timer, guest_end
guest_begin:
1:	in $GUEST_PORT_ASK, %eax
	test %eax, %eax
	js 8f
	mov %eax, %ecx
	btr $GUEST_ASK_PRINT, %ecx
	jnc 2f
	inc %r10d
	mov %r10d, %eax
	out %eax, $GUEST_PORT_PRINT

2:	incq VCPU_VISITS(%r15)
	mov %r8, VCPU_SEQUENCE(%r15)
	movq %xmm5, %rdx
	cmp %rdx, %r14
	je 3f
	incq VCPU_SSE_BAD(%r15)
	movq %r14, %xmm5
3:	testb $1, VCPU_FLAGS(%r15)
	jz 4f
	vextractf128 $1, %ymm6, %xmm7
	vmovq %xmm7, %rdx
	cmp %rdx, %r14
	je 4f
	incq VCPU_AVX_BAD(%r15)
	vinsertf128 $1, %xmm5, %ymm6, %ymm6
4:	rdtsc
	shl $32, %rdx
	or %rdx, %rax
	cmp %r9, %rax
	jae 5f
	incq VCPU_TSC_BACK(%r15)
5:	mov %rax, %r9

	test %ecx, %ecx
	jz 1b
6:	inc %r8
guest_counted:
	mov %r8, %rax
	cmp $PATTERN_SEQUENTIAL, %ebp
	je 7f
	imul %r12, %rax
	mov %rax, %rdx
	shr $32, %rdx
	xor %rdx, %rax
	imul %r13, %rax
	cmp $PATTERN_ZIPF, %ebp
	je 9f
	mul %rsi
	jmp 10f
9:	bsr %rsi, %rdi
	inc %edi
	mul %rdi		/* rdx: the octave */
	xor %edi, %edi
	bts %rdx, %rdi
	mul %rdi
	add %rdi, %rdx		/* the rank */
	mov $STAMP_SCATTER, %eax
	mul %rdx
7:	xor %edx, %edx
	div %rsi
10:	mov %rdx, %rdi
	imul %r12, %rdi
	shr $55, %rdi
	imul %r11, %rdx
	add %rbx, %rdx
	mov %r8, (%rdx,%rdi,8)
guest_stamped:
	dec %ecx
	jnz 6b
	jmp 1b

8:	and $0x7fffffff, %eax
	mov %eax, %esi
	jmp 1b

	/* The timer's handler, CPL 0. It pushes nothing, so the interrupted rip is at rsp. */
	.balign 16
guest_timer:
	incq VCPU_TICKS(%r15)
	movl $0, GUEST_APIC + 0xb0
	iretq
guest_end:

	.section .note.GNU-stack, "", @progbits
