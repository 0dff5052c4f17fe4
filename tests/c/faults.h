/* faults.h: makes one call to the system fail, the n-th that the engine makes.
 *
 * A program that links faults.c with the options FAULT_LINK of tests/support/c_build.py
 * has every call in its own objects counted: allocation, files, mappings, threads. */
#ifndef FAULTS_H
#define FAULTS_H

/* From now on, in all threads, the n-th call fails (from 1), and that one only. */
void faults_arm(int n);

/* Back to no faults. The name of the function that was made to fail, or NULL. */
const char *faults_disarm(void);

#endif
