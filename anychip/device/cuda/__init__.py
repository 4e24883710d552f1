"""What a program asks of CUDA and of its machine, and the answers: `torch.cuda`, its runtime, NVML, clocks, random numbers."""
