/* faults.h: makes one call to the system fail: the k-th that comes from one place in
 * the code. Threads call in an order that varies, but each place as often in every run.
 *
 * A program that links faults.c with the options FAULT_LINK of tests/support/c_build.py
 * has every call in its own objects counted: allocation, files, mappings, threads. */
#ifndef FAULTS_H
#define FAULTS_H

/* From now on, in all threads, counts the calls from each place. */
void faults_count(void);

/* From now on, in all threads, one of the counted calls fails: the n-th (from 0),
 * places being taken in turn. Returns 0 if there are no more. */
int faults_arm(int n);

/* Back to no counts or faults. The name of the function that was made to fail, or NULL.
 */
const char *faults_disarm(void);

#endif
