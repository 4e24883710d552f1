"""anychip: how would this PyTorch program run on another vendor's chip?"""
