"""The private names of Keras, tf-keras and Horovod that distloss uses, as a table."""
